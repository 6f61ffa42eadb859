"""Images of any number of channels: arrays saved by numpy and multi-band or multi-page TIFF."""

import io
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy

NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_BYTES = 1 << 31  # what a small compressed file may declare


def read_npy(data: bytes) -> np.ndarray:
    """The numbers of a .npy file as (H, W, C); raises `ValueError` with the reason.

    Of three axes the shorter one of the first and the last holds the channels.
    """
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype.kind not in "buif":
        raise ValueError(f"it holds {dtype} and not numbers")
    _check(shape, dtype.itemsize, len(data) - stream.tell())
    stream.seek(0)
    return _channels_last(np.load(stream, allow_pickle=False))


def read_tiff(data: bytes) -> np.ndarray:
    """The first series of a TIFF file as (H, W, C), pages as channels; raises `ValueError`."""
    import tifffile  # slow to import, and few data sets need it

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it complains without a file's name
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        if series.dtype is None or series.dtype.kind not in "buif":
            raise ValueError("it does not hold numbers")
        _check(series.shape, series.dtype.itemsize, _MAX_BYTES)
        if _last_byte(series) > len(data):  # tifffile would fill the rest with zeros
            raise ValueError("it ends before its pixels do")
        values: np.ndarray = series.asarray()
    return _channels_last(values)


def _last_byte(series: Any) -> int:
    """Where the last of the pixels' bytes should be."""
    ends = [0]
    for page in series.pages:
        if page is None:
            raise ValueError("one of its pages is missing")
        ends += [a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    return max(ends)


def _check(shape: Sequence[int], itemsize: int, available: int) -> None:
    if len(shape) not in (2, 3):
        raise ValueError(f"it has {len(shape)} axes {tuple(shape)}; (H, W) or (H, W, C) is wanted")
    if math.prod(shape) * itemsize > available:
        raise ValueError(f"it declares {tuple(shape)}, which is more than the file can hold")


def _channels_last(values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        return values[..., None]
    return np.moveaxis(values, 0, 2) if values.shape[0] < values.shape[2] else values
