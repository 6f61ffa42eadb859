"""Where to crop each image of a batch: vectorised, counter-based, without a loop over images.

A box or a crop is (x0, y0, x1, y1), normalised to [0, 1] and half-open, float32, everywhere in this
library. `size` is (rows, cols) of the images in pixels. One (key, stream) pair gives one crop, the
same wherever and whenever it is drawn; two views of an image use two streams. All policies draw
crop sizes from the same numbers, so policies compared under one key differ in position only.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from contramask.data.constants import constant
from contramask.draws import uniform

#: Lower and upper bound of a uniform draw.
Range = tuple[float, float]

#: Share of the image's area a crop takes, and its width divided by its height (ContrastiveCrop).
SCALE: Range = (0.2, 1.0)
RATIO: Range = (3 / 4, 4 / 3)

_TRIES = 10  # torchvision's number of attempts before the central fallback
_KNOTS = 4097  # of the inverse Beta table
_ROUNDING_PX = 1e-3  # before a floor: a pixel edge held as float32 must not slip by one


def full_boxes(count: int, device: torch.device | None = None) -> Tensor:
    """Boxes of the whole image, (count, 4)."""
    return constant((0.0, 0.0, 1.0, 1.0), device or torch.device("cpu")).repeat(count, 1)


def random_resized_crop(
    key: Tensor, stream: int, size: tuple[int, int], scale: Range = SCALE, ratio: Range = RATIO
) -> Tensor:
    """Crops (B, 4) with the distribution of torchvision's `RandomResizedCrop.get_params`."""
    return crop_inside(key, stream, size, full_boxes(len(key), key.device), scale, ratio, 0.0)


def contrastive_crop(
    key: Tensor,
    stream: int,
    size: tuple[int, int],
    boxes: Tensor,
    scale: Range = SCALE,
    ratio: Range = RATIO,
    alpha: float = 0.6,
) -> Tensor:
    """Crops (B, 4) whose centres lie in `boxes` (B, 4), pushed outwards where alpha < 1.

    ContrastiveCrop (arXiv 2202.03278, algorithm 1) as released: both ends of the range are clipped
    to the image, then Beta(alpha, alpha) spreads over what is left, truncated to whole pixels. So
    the last position of a range is never taken, and sizes that never fit are cropped centrally
    whatever the box.
    """
    rows, cols = _region_sizes(size, key)
    noise = uniform(key, stream, 2 * _TRIES + 2)
    height, width, found = _crop_sizes(noise, rows, cols, scale, ratio)
    offset = beta_from_uniform(noise[:, -2:], alpha)
    top = _centre_position(rows, height, boxes[:, 1], boxes[:, 3], offset[:, 0])
    left = _centre_position(cols, width, boxes[:, 0], boxes[:, 2], offset[:, 1])
    top = torch.where(found, top, torch.floor((rows - height) / 2))
    left = torch.where(found, left, torch.floor((cols - width) / 2))
    return _normalised(left, top, width, height, size)


def crop_inside(
    key: Tensor,
    stream: int,
    size: tuple[int, int],
    boxes: Tensor,
    scale: Range = SCALE,
    ratio: Range = RATIO,
    margin: float = 0.5,
) -> Tensor:
    """RandomResizedCrops (B, 4) inside `boxes` (B, 4), each first grown by `margin`.

    The margin, a share of the box's own side, is added on each of the four sides: 0.5 makes a box
    twice as wide and as high. The result is cut at the image border, rounded to whole pixels;
    `scale` is a share of that region, not of the image.
    """
    if margin < 0:
        raise ValueError(f"margin is {margin}; it must be 0 (the box itself) or more")
    x0, cols = _expanded(boxes[:, 0], boxes[:, 2], margin, size[1])
    y0, rows = _expanded(boxes[:, 1], boxes[:, 3], margin, size[0])
    noise = uniform(key, stream, 2 * _TRIES + 2)
    height, width, found = _crop_sizes(noise, rows, cols, scale, ratio)
    top = _uniform_position(rows, height, found, noise[:, -2])
    left = _uniform_position(cols, width, found, noise[:, -1])
    return _normalised(x0 + left, y0 + top, width, height, size)


def beta_from_uniform(noise: Tensor, alpha: float) -> Tensor:
    """Beta(alpha, alpha) draws from uniform ones, elementwise and monotone: 0 -> 0, 1/2 -> 1/2.

    The inverse distribution function is tabulated at 4,097 even knots and read linearly. Largest
    error: 2e-6 for alpha up to 0.6, 4e-6 at 0.8, none at 1 (the identity). Above 1 the curve is
    vertical at both ends: 4e-4 at 1.5, 3e-3 at 2, met only in the two outermost cells, which have
    a probability of 1/4096 each. Raises `ValueError` unless alpha is in [0.05, 2].
    """
    if not 0.05 <= alpha <= 2:
        raise ValueError(f"alpha is {alpha}; allowed are 0.05 to 2 (paper: 0.6, 1 is uniform)")
    table = _beta_table(alpha, noise.device)
    position = noise * (_KNOTS - 1)
    cell = position.long().clamp(0, _KNOTS - 2)
    return torch.lerp(table[cell], table[cell + 1], position - cell)


@lru_cache(maxsize=16)
def _beta_table(alpha: float, device: torch.device) -> Tensor:
    knots = betaincinv(alpha, alpha, np.linspace(0.0, 1.0, _KNOTS))
    return torch.tensor(knots, dtype=torch.float32, device=device)


def _region_sizes(size: tuple[int, int], key: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the whole image, once per key, (B,) float32 each."""
    shape = (len(key),)
    return (
        torch.full(shape, float(size[0]), device=key.device),
        torch.full(shape, float(size[1]), device=key.device),
    )


def _crop_sizes(
    noise: Tensor, rows: Tensor, cols: Tensor, scale: Range, ratio: Range
) -> tuple[Tensor, Tensor, Tensor]:
    """Height, width in whole pixels and whether one of the ten tries fitted, (B,) each.

    noise (B, >= 20): ten areas, then ten ratios. Where no try fits, the sizes are those of
    torchvision's central fallback: as much of the region as the ratio range allows.
    """
    _check_ranges(scale, ratio)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = (rows * cols)[:, None] * (scale[0] + (scale[1] - scale[0]) * noise[:, :_TRIES])
    aspect = torch.exp(low + (high - low) * noise[:, _TRIES : 2 * _TRIES])
    width = torch.round(torch.sqrt(area * aspect))  # (B, 10)
    height = torch.round(torch.sqrt(area / aspect))
    fits = (width > 0) & (width <= cols[:, None]) & (height > 0) & (height <= rows[:, None])
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)  # the first of equal maxima
    found = fits.any(dim=1)
    shape = cols / rows
    widest = torch.where(shape > ratio[1], torch.round(rows * ratio[1]).clamp(min=1), cols)
    tallest = torch.where(shape < ratio[0], torch.round(cols / ratio[0]).clamp(min=1), rows)
    return (
        torch.where(found, height.gather(1, first)[:, 0], tallest),
        torch.where(found, width.gather(1, first)[:, 0], widest),
        found,
    )


def _check_ranges(scale: Range, ratio: Range) -> None:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"crop scale is {scale}; give (low, high) with 0 < low <= high <= 1")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"crop ratio is {ratio}; give (low, high) with 0 < low <= high")


def _uniform_position(length: Tensor, crop: Tensor, found: Tensor, noise: Tensor) -> Tensor:
    """A whole position out of 0 ... length - crop, all equally likely; the middle in a fallback."""
    room = length - crop
    return torch.where(found, torch.minimum(torch.floor(noise * (room + 1)), room), room // 2)


def _centre_position(
    length: Tensor, crop: Tensor, low: Tensor, high: Tensor, offset: Tensor
) -> Tensor:
    """The crop's first row (or column) whose centre is `offset` of the way from low to high."""
    half, room = torch.floor(crop / 2), length - crop
    first = torch.floor(length * low + _ROUNDING_PX) - half
    last = torch.floor(length * high + _ROUNDING_PX) - half
    first = torch.minimum(first.clamp(min=0), room)
    last = torch.minimum(last.clamp(min=0), room)
    return first + torch.trunc((last - first) * offset)


def _expanded(low: Tensor, high: Tensor, margin: float, length: int) -> tuple[Tensor, Tensor]:
    """Start and length in whole pixels of [low, high) grown by `margin`; at least one pixel."""
    grow = (high - low) * margin
    start = torch.round((low - grow) * length).clamp(0, length - 1)
    stop = torch.round((high + grow) * length).clamp(0, length)
    return start, torch.maximum(stop - start, torch.ones_like(start))


def _normalised(
    left: Tensor, top: Tensor, width: Tensor, height: Tensor, size: tuple[int, int]
) -> Tensor:
    edges = torch.stack([left, top, left + width, top + height], dim=1)
    rows, cols = size
    return edges / constant((cols, rows, cols, rows), edges.device)
