"""Images kept as JPEG in one file: decoded when asked for, by threads, into the store's rectangle.

Each is kept whole, resized as the store's rectangle wants it and not yet cut or padded, so a store
of this kind gives the pictures that a raw one gives, but for what JPEG loses.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from contramask.data.framing import Fit, Frame

BLOB, OFFSETS = "images.jpg.bin", "offsets.npy"
#: Numbers of channels JPEG can keep.
CHANNELS = (1, 3)
#: Of libjpeg's scale to 100; colours at half the resolution.
QUALITY = 90
_OPTIONS = (
    *(cv2.IMWRITE_JPEG_QUALITY, QUALITY),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420),
)
_TASK = 8  # images a thread decodes at a time


@contextmanager
def single_opencv() -> Iterator[None]:
    """OpenCV's own threads off: on top of ours they only wait for each other."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def encode(pixels: np.ndarray) -> bytes:
    """The JPEG file of uint8 (h, w, 1 or 3)."""
    colours = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.shape[2] == 3 else pixels
    done, data = cv2.imencode(".jpg", colours, _OPTIONS)
    if not done:
        raise ValueError(f"an image of {pixels.shape} pixels cannot become JPEG; use store: raw")
    return bytes(data.data)


class JpegImages:
    """A split's images as an array uint8 (N, H, W, C) that is decoded where it is indexed.

    `threads` decode at a time; 0: as many as there are cores. Raises `ValueError` when the files
    are missing, cut off or no JPEG images.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, folder: Path, shape: tuple[int, int, int, int], fit: Fit, threads: int = 0
    ) -> None:
        self.folder, self.shape, self.fit = folder, shape, fit
        self.threads = threads or os.cpu_count() or 1
        self.offsets = _mapped(folder / OFFSETS)
        if self.offsets.shape != (shape[0] + 1,) or self.offsets.dtype != np.int64:
            raise ValueError(f"{folder / OFFSETS} does not say where {shape[0]} images begin")
        self.blob = _bytes(folder / BLOB)
        if len(self.blob) != self.offsets[-1]:
            raise ValueError(
                f"{folder / BLOB} has {len(self.blob)} bytes, not {self.offsets[-1]}: it is cut off"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """As of a NumPy array: one image for a number, images for a slice or an array of rows."""
        chosen = np.arange(len(self))[rows]
        if chosen.ndim == 0:
            return self.decoded(int(chosen))
        made = np.empty((len(chosen), *self.shape[1:]), np.uint8)

        def task(start: int) -> None:
            for place in range(start, min(start + _TASK, len(chosen))):
                made[place] = self.decoded(int(chosen[place]))

        starts = range(0, len(chosen), _TASK)
        if min(self.threads, len(starts)) < 2:
            for start in starts:
                task(start)
        else:
            list(self._pool.map(task, starts))
        return made

    def decoded(self, row: int) -> np.ndarray:
        """One image, uint8 (H, W, C)."""
        flags = cv2.IMREAD_GRAYSCALE if self.shape[3] == 1 else cv2.IMREAD_COLOR_RGB
        image = cv2.imdecode(self.blob[self.offsets[row] : self.offsets[row + 1]], flags)
        if image is None:
            raise ValueError(
                f"image {row} in {self.folder / BLOB} is damaged; run the dataset stage again to"
                " rebuild the store"
            )
        height, width = image.shape[:2]
        image = image.reshape(height, width, self.shape[3])
        return Frame(height, width, (self.shape[1], self.shape[2]), self.fit).placed(image)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="jpeg")


def _mapped(path: Path) -> np.ndarray:
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _bytes(path: Path) -> np.ndarray:
    if not path.stat().st_size:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, mode="r")
