"""Turns any image file into uint8 pixels, and says in words what was lost on the way."""

import hashlib
import io
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from contramask.data.bands import NPY, TIFF, read_npy, read_tiff
from contramask.data.bits import bit_depth, to_eight_bits
from contramask.data.pillow import as_stored, to_rgb
from contramask.data.record import ImageSource, UnreadableImage

#: A shorter side in pixels carries nothing to learn from.
MIN_SIDE = 8
#: Longer side over shorter side; beyond it a centre crop keeps almost nothing.
MAX_ASPECT = 20
#: Pixels; above this a small file may fill the memory (Pillow's own limit for a warning).
MAX_PIXELS = 89_478_485
_ORIENTATION = 0x0112
#: What is opened: no vector formats, which run other programs, and none without a signature.
_FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF"),
    *("ICO", "SGI", "SUN", "PCX"),
)


class WrongChannels(UnreadableImage):
    """An image that is whole, but has `channels` channels and not those asked for."""

    def __init__(self, channels: int, wanted: int) -> None:
        self.channels = channels
        super().__init__(
            f"has {channels} channels and the store keeps {wanted}; set dataset.channels={channels}"
        )


@dataclass(frozen=True)
class FileFacts:
    """What is known about an image file; `notes` are sentences about lossy conversions.

    `height`, `width` in pixels are those of the image as a viewer shows it.
    """

    height: int
    width: int
    mode: str
    channels: int
    bit_depth: int
    sha256: str
    notes: tuple[str, ...]
    format: str = ""


@dataclass(frozen=True)
class Decoded:
    """Pixels uint8 (h, w, C) and the file's facts.

    `pixels` may be smaller than the file says, never below the asked side: JPEG can be decoded at
    1/2, 1/4 and 1/8 of its size, several times faster.
    """

    pixels: np.ndarray
    facts: FileFacts


class _Wanted(NamedTuple):
    side: int
    channels: int
    value_range: tuple[float, float] | None


def decode(
    image: ImageSource,
    side: int,
    channels: int = 3,
    value_range: tuple[float, float] | None = None,
) -> Decoded:
    """Decode one image for a store of side `side`; raises `UnreadableImage` with the reason.

    With 3 channels everything becomes RGB, with 1 grey; any other number an image must have.
    `value_range` is what becomes 0 and 255 where there are more than 8 bits; by default the least
    and the greatest value of the image.
    """
    wanted = _Wanted(side, channels, value_range)
    if isinstance(image, np.ndarray):
        return _from_pixels(image, wanted)
    data = _fetched(image)
    if not data:
        raise UnreadableImage("is empty (0 bytes)")
    try:
        return _from_bytes(data, wanted)
    except UnreadableImage:
        raise
    except Exception as error:  # one broken file, whatever its decoder raises, must not end a run
        reason = str(error) or type(error).__name__
        raise UnreadableImage(f"is damaged and cannot be decoded to its end ({reason})") from error


def _fetched(image: ImageSource) -> bytes:
    try:
        if isinstance(image, Path):
            return image.read_bytes()
        return image() if callable(image) else bytes(image)
    except OSError as error:
        raise UnreadableImage(f"cannot be opened ({error.strerror or error})") from error


def _from_pixels(pixels: np.ndarray, wanted: _Wanted) -> Decoded:
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise UnreadableImage(f"is an array {pixels.dtype} {pixels.shape}, not uint8 (H, W, C)")
    height, width, channels = pixels.shape
    _check_size(height, width)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    mode = {1: "L", 3: "RGB"}.get(channels, f"{channels} channels")
    facts = FileFacts(height, width, mode, channels, 8, digest, (), "array")
    return Decoded(_with_channels(pixels, wanted.channels), facts)


def _from_values(values: np.ndarray, data: bytes, kind: str, wanted: _Wanted) -> Decoded:
    """From numbers (H, W, C) of any type."""
    height, width, channels = values.shape
    _check_size(height, width)
    depth = 1 if values.dtype == bool else 8 * values.dtype.itemsize
    notes: tuple[str, ...] = ()
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    elif values.dtype != np.uint8:
        what = f"{depth}-bit with {channels} channel{'s' * (channels > 1)}"
        values, note = to_eight_bits(values, what, wanted.value_range)
        notes = (note,)
    pixels = _with_channels(values, wanted.channels)
    mode, digest = f"{channels} channels", hashlib.sha256(data).hexdigest()
    return Decoded(pixels, FileFacts(height, width, mode, channels, depth, digest, notes, kind))


def _with_channels(pixels: np.ndarray, wanted: int) -> np.ndarray:
    """uint8 (h, w, C) with the wanted channels: grey and RGB become each other, no others do."""
    given = pixels.shape[2]
    if given == 1 and wanted == 3:
        return np.repeat(pixels, 3, axis=2)
    if given == 3 and wanted == 1:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY))[..., None]
    if given != wanted:
        raise WrongChannels(given, wanted)
    return np.ascontiguousarray(pixels)


def _from_bytes(data: bytes, wanted: _Wanted) -> Decoded:
    if data.startswith(NPY):
        return _from_values(read_npy(data), data, "NPY", wanted)
    many = wanted.channels not in (1, 3)
    if data.startswith(TIFF) and many:
        return _from_values(read_tiff(data), data, "TIFF", wanted)
    try:
        image = _open(data)
    except UnreadableImage:
        if data.startswith(TIFF):  # Pillow knows few kinds of TIFF
            return _from_values(read_tiff(data), data, "TIFF", wanted)
        raise
    mode, channels, depth = image.mode, len(image.getbands()), bit_depth(image, data)
    _check_size(image.height, image.width)
    notes = _frame_notes(image)
    size, kind = image.size, image.format or ""
    if depth == 8:
        # Twice the side, so that shrinking still averages.
        image.draft(image.mode, (2 * wanted.side, 2 * wanted.side))
    image.load()
    reduced = image.size != size  # False for all formats but JPEG
    orientation, complaint = _orientation(image)
    pixels, more = (as_stored if many else to_rgb)(image, data, depth, wanted.value_range)
    pixels = _with_channels(_upright(pixels, orientation), wanted.channels)
    height, width = pixels.shape[:2]
    if reduced:
        width, height = size if orientation < 5 else size[::-1]
    digest = hashlib.sha256(data).hexdigest()
    notes = (*notes, *complaint, *more)
    return Decoded(pixels, FileFacts(height, width, mode, channels, depth, digest, notes, kind))


@lru_cache(maxsize=1)
def _known_formats() -> list[str]:
    Image.init()
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # it logs, without a name, what it raises
    return [name for name in _FORMATS if name in Image.OPEN]  # AVIF is not in every Pillow


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_known_formats())
    except Image.DecompressionBombError:
        raise UnreadableImage(_bomb_text(f"over {2 * MAX_PIXELS:,}")) from None
    except UnidentifiedImageError:
        start = data[:12].decode("ascii", "replace")
        raise UnreadableImage(f"is not an image Pillow knows (it begins with {start!r})") from None


def _bomb_text(size: str) -> str:
    return f"has {size} pixels; over {MAX_PIXELS:,} could fill the memory, so shrink it first"


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise UnreadableImage(_bomb_text(f"{width} x {height}"))
    if min(height, width) < MIN_SIDE:
        raise UnreadableImage(
            f"is {width} x {height} pixels; sides below {MIN_SIDE} pixels cannot be used"
        )
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UnreadableImage(
            f"is {width} x {height} pixels; a side more than {MAX_ASPECT} times the other leaves"
            " nothing meaningful in a square crop"
        )


def _frame_notes(image: Image.Image) -> tuple[str, ...]:
    # MPO is what phones write: a JPEG with previews of the same picture behind it.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    return (f"has {frames} frames; only the first is used",) if frames > 1 else ()


def _orientation(image: Image.Image) -> tuple[int, tuple[str, ...]]:
    """EXIF orientation 1-8, read after loading because Pillow turns TIFF images by itself."""
    try:
        found = int(image.getexif().get(_ORIENTATION, 1))
    except Exception as error:  # a damaged EXIF block says nothing about the pixels
        return 1, (f"has a damaged EXIF block, so no rotation was applied ({error})",)
    return (found if 1 <= found <= 8 else 1), ()


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo a camera's rotation: EXIF orientation 2-4 mirror or turn, 5-8 also swap the sides."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
