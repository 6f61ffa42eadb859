"""Where the object may be, without a trained model: classical heat maps and boxes that need none.

A heat map is float32 in [0, 1] on a (g, g) grid laid over the whole image, 1 = most likely object.
Each map depends on its own image alone, of any size and number of channels. Resizing and blurring
are products with a small matrix on each side: the fast way for many small images at once. A trained
network joins as one more `Producer`.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import scipy.fft

#: uint8 images (B, H, W, C) and the grid g -> float32 maps (B, g, g) in [0, 1].
Producer = Callable[[np.ndarray, int], np.ndarray]

_WORK_SIDE = 64  # px; larger images are averaged down to this before anything else
_RESIDUAL_BLUR = 2.0  # px at 64 px: the raw residual is spiky
_EDGE_BLUR = 0.08  # of the side
_CENTRE_PRIOR = 0.35  # standard deviation of the prior, in sides
_FLAT = 1 / 255  # an image whose brightest and darkest spot differ by less shows no object
_EPSILON = 1e-3  # keeps the log finite; far below one grey level's amplitude in the spectrum


def spectral_residual(images: np.ndarray, grid: int) -> np.ndarray:
    """What departs from a smooth amplitude spectrum (Hou and Zhang, CVPR 2007), (B, grid, grid).

    As opencv_contrib computes it (3x3 mean of the log amplitude, 5x5 blur, square), on 64x64 px or
    on the image's own size where that is smaller, then blurred further. Constant images give an
    all-zero map.
    """
    grey = _planes(images).mean(axis=1)  # (B, h, w)
    rows, cols = grey.shape[1:]
    spectrum = scipy.fft.fft2(grey)
    amplitude = np.abs(spectrum) + np.float32(_EPSILON)
    log = np.log(amplitude)
    log -= _both_sides(_ring_mean(rows), log, _ring_mean(cols))
    map_ = np.abs(scipy.fft.ifft2(np.exp(log) / amplitude * spectrum))
    map_ = _both_sides(_blur(rows, 8.0, 2), map_, _blur(cols, 8.0, 2)) ** 2
    left, right = (
        _area(grid, n) @ _blur(n, _RESIDUAL_BLUR * n / _WORK_SIDE, n) for n in (rows, cols)
    )
    return _finished(_both_sides(left, map_, right), grey)


def edge_energy(images: np.ndarray, grid: int) -> np.ndarray:
    """Sobel magnitude over all channels, blurred, times a wide centre prior, (B, grid, grid).

    Fails on textured backgrounds. Constant images give an all-zero map.
    """
    planes = _planes(images)  # (B, C, h, w): a colour edge of equal brightness counts too
    rows, cols = planes.shape[2:]
    energy = _sobel(planes, down=2, along=3) + _sobel(planes, down=3, along=2)
    left, right = (_area(grid, n) @ _blur(n, _EDGE_BLUR * n, n) for n in (rows, cols))
    map_ = _both_sides(left, np.sqrt(energy), right)
    centre = (np.arange(grid) + 0.5) / grid - 0.5
    prior = np.exp(-(centre**2) / (2 * _CENTRE_PRIOR**2)).astype(np.float32)
    return _finished(map_ * prior[:, None] * prior, planes)


def box_maps(boxes: np.ndarray, grid: int) -> np.ndarray:
    """Boxes (N, 4) drawn as maps (N, grid, grid): the share of each cell a box covers."""
    edges = np.arange(grid + 1, dtype=np.float32) / grid

    def covered(low: np.ndarray, high: np.ndarray) -> np.ndarray:
        inside = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
        return np.asarray(np.clip(inside * grid, 0, 1))

    across, down = covered(boxes[:, 0], boxes[:, 2]), covered(boxes[:, 1], boxes[:, 3])
    drawn: np.ndarray = (down[:, :, None] * across[:, None, :]).astype(np.float32)
    return drawn


def _planes(images: np.ndarray) -> np.ndarray:
    """Images as float32 (B, C, h, w) in [0, 1], averaged down to the working side."""
    planes = np.ascontiguousarray(np.moveaxis(images, -1, 1), dtype=np.float32) / 255
    if max(planes.shape[2:]) <= _WORK_SIDE:
        return planes
    rows, cols = (_area(min(n, _WORK_SIDE), n) for n in planes.shape[2:])
    return _both_sides(rows, planes, cols)


def _sobel(planes: np.ndarray, down: int, along: int) -> np.ndarray:
    """Squared derivative along one axis, 1-2-1 mean along the other, summed over channels."""
    difference = _neighbour(planes, 1, along) - _neighbour(planes, -1, along)
    both = _neighbour(difference, 1, down) + _neighbour(difference, -1, down)
    slope = (2 * difference + both) / 8
    energy: np.ndarray = np.einsum("bchw,bchw->bhw", slope, slope)
    return energy


def _neighbour(planes: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Each pixel's neighbour at `step` along an axis, the border pixel repeated."""
    size = planes.shape[axis]
    moved: np.ndarray = planes.take(np.clip(np.arange(size) + step, 0, size - 1), axis=axis)
    return moved


def stretch(maps: np.ndarray) -> np.ndarray:
    """Each map (N, g, g) brought to [0, 1], least to most; a constant map becomes all zero."""
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    span = np.where(high > low, high - low, np.inf)
    stretched: np.ndarray = ((maps - low) / span).astype(np.float32)
    return stretched


def _finished(maps: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Stretched maps, all zero where the source image (B, ...) has no contrast but noise."""
    contrast = np.ptp(source.reshape(len(source), -1), axis=1)
    return stretch(maps * (contrast >= _FLAT)[:, None, None])


def _both_sides(rows: np.ndarray, images: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Apply one matrix down the rows and one along the columns of images (..., H, W)."""
    product: np.ndarray = rows @ images @ cols.T
    return product


@lru_cache(maxsize=64)
def _area(size_out: int, size_in: int) -> np.ndarray:
    """Averages `size_in` pixels into `size_out` cells of equal width, (size_out, size_in)."""
    cell, pixel = np.arange(size_out)[:, None] / size_out, np.arange(size_in) / size_in
    shared = np.minimum(cell + 1 / size_out, pixel + 1 / size_in) - np.maximum(cell, pixel)
    return _rows_sum_to_one(np.clip(shared, 0, None))


@lru_cache(maxsize=64)
def _blur(size: int, sigma: float, reach: int) -> np.ndarray:
    """A Gaussian cut at `reach` pixels, renormalised at the borders, (size, size)."""
    distance = np.abs(np.arange(size)[:, None] - np.arange(size))
    return _rows_sum_to_one(np.exp(-(distance**2) / (2 * sigma**2)) * (distance <= reach))


@lru_cache(maxsize=64)
def _ring_mean(size: int) -> np.ndarray:
    """The mean of three neighbours on a ring (a spectrum has no border), (size, size)."""
    identity = np.eye(size)
    return _rows_sum_to_one(identity + np.roll(identity, 1, axis=1) + np.roll(identity, -1, axis=1))


def _rows_sum_to_one(matrix: np.ndarray) -> np.ndarray:
    normalised: np.ndarray = (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalised


#: Producers by method name; those that need a trained network join them here.
PRODUCERS: dict[str, Producer] = {
    "spectral_residual": spectral_residual,
    "edge_energy": edge_energy,
}
