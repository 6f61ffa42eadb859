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


def to_eight_bits(values: np.ndarray, kind: str) -> tuple[np.ndarray, str]:
    """Stretch an image's own value range to 0..255; returns uint8 of the same shape and a note.

    A 12-bit microscope or an elevation map uses a small part of 16 bits: cutting the lower byte
    off would leave an almost black image.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("it holds no finite value")
    low, high = float(values[finite].min()), float(values[finite].max())
    if low == high:
        level = int(np.clip(low, 0, 255))
        return np.full(values.shape, level, np.uint8), f"is {kind} of one value, {low:g}"
    scaled = (np.where(finite, values, low).astype(np.float64) - low) / (high - low)
    note = f"is {kind}; its values {low:g} to {high:g} were mapped to 0 to 255"
    return np.rint(scaled * 255).astype(np.uint8), note
