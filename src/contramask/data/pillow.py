"""From an image Pillow has loaded to 8 bits a channel, and what that lost."""

from typing import TypeAlias

import cv2
import numpy as np
from PIL import Image

from contramask.data.bits import to_eight_bits
from contramask.data.record import UnreadableImage

Range: TypeAlias = tuple[float, float]
_SAMPLES = 277  # TIFF tag: channels


def as_stored(
    image: Image.Image, data: bytes, depth: int, value_range: Range | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """All channels as they are stored, uint8 (h, w, C): an alpha channel may hold infrared."""
    if depth > 8:
        values = _deep_values(data, depth)
        order = [2, 1, 0, 3][: values.shape[2]] if values.shape[2] >= 3 else [0]
        deep, note = to_eight_bits(values[..., order], f"{depth}-bit", value_range)
        return deep, (note,)
    stored = np.asarray(image)
    return stored.astype(np.uint8).reshape(*stored.shape[:2], -1), ()


def to_rgb(
    image: Image.Image, data: bytes, depth: int, value_range: Range | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The first frame as uint8 (h, w, 3) and the notes on what this lost."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        grey, note = to_eight_bits(np.asarray(image), f"{depth}-bit grey", value_range)
        return np.repeat(grey[..., None], 3, axis=2), (note,)
    if depth > 8:
        return _deep_colour(data, depth, value_range)
    if "transparency" in image.info or "A" in image.getbands() or "a" in image.getbands():
        return _on_white(np.asarray(image.convert("RGBA")))
    lossless = image.mode in ("RGB", "L", "1", "P")
    notes = () if lossless else (f"is in {image.mode} colours and was converted to RGB",)
    return np.asarray(image.convert("RGB")), (*notes, *_surplus(image))


def _surplus(image: Image.Image) -> tuple[str, ...]:
    """A note when a TIFF has more channels than Pillow hands over."""
    tags = getattr(image, "tag_v2", None)
    stored = int(tags.get(_SAMPLES, 0)) if tags is not None else 0
    if stored <= max(3, len(image.getbands())):
        return ()
    return (f"has {stored} channels, of which three were used (see dataset.channels)",)


def _deep_values(data: bytes, depth: int) -> np.ndarray:
    """Stored numbers (h, w, 1, 3 or 4; blue first) with more than 8 bits a channel."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise UnreadableImage(f"has {depth} bits a channel in a form that cannot be decoded")
    return values if values.ndim == 3 else values[..., None]


def _deep_colour(
    data: bytes, depth: int, value_range: Range | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Colour with more than 8 bits a channel; Pillow would keep the upper 8 bits only."""
    values = _deep_values(data, depth)
    if values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    colour, note = to_eight_bits(values[..., 2::-1], f"{depth}-bit colour", value_range)
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
