"""Inference by sliding windows: an encoder reads large images piece by piece, scores are averaged.

The ADE20K protocol: windows of 512 px, 341 px apart, the last flush with the border.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from contramask.models.upernet import resize_like

Size = tuple[int, int]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side so that together they cover it; one where it fits.

    Raises `ValueError` for a stride that would leave gaps.
    """
    if not 0 < stride <= window:
        raise ValueError(f"stride {stride} must be from 1 to the window's {window} px")
    if length <= window:
        return [0]
    return [*range(0, length - window, stride), length - window]


def slide(
    predict: Callable[[Tensor], Tensor], images: Tensor, window: Size, stride: Size
) -> Tensor:
    """Scores (B, K, H, W) of images (B, C, H, W), the mean of all windows that see a pixel.

    predict: scores (B, K, h, w) of (B, C, *window), at any resolution. Sides shorter than the
    window are padded with zeros, the mean colour; where the image is one window, it is the plain
    prediction.
    """
    height, width = images.shape[2:]
    rows, cols = window
    pad = (0, max(cols - width, 0), 0, max(rows - height, 0))
    padded = torch.nn.functional.pad(images, pad)
    total: Tensor | None = None
    for top in window_starts(height, rows, stride[0]):
        for left in window_starts(width, cols, stride[1]):
            place = (..., slice(top, top + rows), slice(left, left + cols))
            scores = resize_like(predict(padded[place]).float(), padded[place])
            if total is None:
                shape = (len(images), scores.shape[1], *padded.shape[2:])
                total, seen = scores.new_zeros(shape), scores.new_zeros(padded.shape[2:])
            total[place] += scores
            seen[place[1:]] += 1
    if total is None:
        raise ValueError("there is no image to slide over")
    return (total / seen)[..., :height, :width]
