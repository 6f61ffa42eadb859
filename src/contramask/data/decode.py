"""Turns any image file into uint8 RGB pixels, and says in words what was lost on the way."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from contramask.data.bits import bit_depth, to_eight_bits

#: A shorter side in pixels carries nothing to learn from.
MIN_SIDE = 8
#: Longer side over shorter side; beyond it a centre crop keeps almost nothing.
MAX_ASPECT = 20
#: Pixels; above this a small file may fill the memory (Pillow's own limit for a warning).
MAX_PIXELS = 89_478_485
_ORIENTATION = 0x0112


class UnreadableImage(ValueError):
    """An image that cannot be used; the text is a sentence about the file."""


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


@dataclass(frozen=True)
class Decoded:
    """Pixels uint8 (h, w, 3) and the file's facts.

    `pixels` may be smaller than the file says, never below the asked side: JPEG can be decoded at
    1/2, 1/4 and 1/8 of its size, several times faster.
    """

    pixels: np.ndarray
    facts: FileFacts


def decode(image: Path | bytes | np.ndarray, side: int) -> Decoded:
    """Decode one image for a store of side `side`; raises `UnreadableImage` with the reason."""
    if isinstance(image, np.ndarray):
        return _from_pixels(image)
    data = _read(image) if isinstance(image, Path) else image
    if not data:
        raise UnreadableImage("is empty (0 bytes)")
    try:
        return _from_bytes(data, side)
    except UnreadableImage:
        raise
    except Exception as error:  # one broken file, whatever its decoder raises, must not end a run
        reason = str(error) or type(error).__name__
        raise UnreadableImage(f"is damaged and cannot be decoded to its end ({reason})") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"cannot be opened ({error.strerror or error})") from error


def _from_pixels(pixels: np.ndarray) -> Decoded:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise UnreadableImage(f"is an array {pixels.dtype} {pixels.shape}, not uint8 (H, W, 3)")
    height, width = pixels.shape[:2]
    _check_size(height, width)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Decoded(pixels, FileFacts(height, width, "RGB", 3, 8, digest, ()))


def _from_bytes(data: bytes, side: int) -> Decoded:
    image = _open(data)
    mode, channels, depth = image.mode, len(image.getbands()), bit_depth(image, data)
    _check_size(image.height, image.width)
    notes = _frame_notes(image)
    size = image.size
    if depth == 8:
        image.draft(image.mode, (2 * side, 2 * side))  # twice, so that shrinking still averages
    image.load()
    reduced = image.size != size  # False for all formats but JPEG
    orientation, complaint = _orientation(image)
    pixels, more = _rgb(image, data, depth)
    pixels = _upright(pixels, orientation)
    height, width = pixels.shape[:2]
    if reduced:
        width, height = size if orientation < 5 else size[::-1]
    digest = hashlib.sha256(data).hexdigest()
    notes = (*notes, *complaint, *more)
    return Decoded(pixels, FileFacts(height, width, mode, channels, depth, digest, notes))


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
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


def _rgb(image: Image.Image, data: bytes, depth: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The first frame as uint8 (h, w, 3) and the notes on what this lost."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey, note = to_eight_bits(np.asarray(image), f"{depth}-bit grey")
        return np.repeat(grey[..., None], 3, axis=2), (note,)
    if depth > 8:
        return _deep_colour(data, depth)
    if "transparency" in image.info or "A" in image.getbands() or "a" in image.getbands():
        return _on_white(np.asarray(image.convert("RGBA")))
    lossless = image.mode in ("RGB", "L", "1", "P")
    notes = () if lossless else (f"is in {image.mode} colours and was converted to RGB",)
    return np.asarray(image.convert("RGB")), notes


def _deep_colour(data: bytes, depth: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Colour with more than 8 bits a channel; Pillow would keep the upper 8 bits only."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise UnreadableImage(f"has {depth} bits a channel in a form that cannot be decoded")
    if values.ndim == 2:
        values = np.repeat(values[..., None], 3, axis=2)
    colour, note = to_eight_bits(values[..., 2::-1], f"{depth}-bit colour")
    if values.shape[2] == 3:
        return colour, (note,)
    full = 65_535 if values.dtype == np.uint16 else 1.0  # floating-point alpha ends at 1
    alpha = np.clip(np.rint(values[..., 3:].astype(np.float64) / full * 255), 0, 255)
    pixels, more = _on_white(np.concatenate([colour, alpha.astype(np.uint8)], axis=2))
    return pixels, (note, *more)


def _on_white(pixels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """uint8 (h, w, 4) laid on white paper."""
    alpha = pixels[..., 3:].astype(np.uint16)
    if alpha.min() == 255:
        return np.ascontiguousarray(pixels[..., :3]), ("has an opaque alpha channel, dropped",)
    mixed = (pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8), ("has transparent parts, which were laid on white",)
