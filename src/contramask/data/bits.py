"""Bit depths: how many bits a file has, and how more than 8 become 8 without losing the picture."""

import numpy as np
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_BITS_PER_SAMPLE = 258  # TIFF tag


def bit_depth(image: Image.Image, data: bytes) -> int:
    """Bits a channel as stored in the file; Pillow itself reports 16-bit colour as 8."""
    if data.startswith(_PNG):
        return data[24] if data[24] == 16 else (1 if image.mode == "1" else 8)
    if image.mode in ("I", "F"):
        return 32
    if image.mode.startswith("I;16"):
        return 16
    tags = getattr(image, "tag_v2", None)
    stored = tags.get(_BITS_PER_SAMPLE, 8) if tags is not None else 8
    deepest = max(stored) if isinstance(stored, tuple) else int(stored)
    return deepest if deepest > 8 else (1 if image.mode == "1" else 8)


def to_eight_bits(
    values: np.ndarray, kind: str, value_range: tuple[float, float] | None = None
) -> tuple[np.ndarray, str]:
    """Stretch a value range, by default the image's own, to 0..255; uint8 of that shape and a note.

    A 12-bit microscope or an elevation map uses a small part of 16 bits: cutting the lower byte
    off would leave an almost black image. A fixed range keeps values of several images comparable.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("it holds no finite value")
    low, high = float(values[finite].min()), float(values[finite].max())
    if value_range is None and low == high:
        level = int(np.clip(low, 0, 255))
        return np.full(values.shape, level, np.uint8), f"is {kind} of one value, {low:g}"
    note = f"is {kind}; its values {low:g} to {high:g} were mapped to 0 to 255"
    if value_range is not None:
        note = f"is {kind} of values {low:g} to {high:g}; {_mapped(value_range)}"
        low, high = value_range
    filled = np.where(finite, values, low).astype(np.float64)
    scaled = ((filled - low) / (high - low)).clip(0, 1)
    return np.rint(scaled * 255).astype(np.uint8), note


def _mapped(value_range: tuple[float, float]) -> str:
    return f"{value_range[0]:g} to {value_range[1]:g} were mapped to 0 to 255"
