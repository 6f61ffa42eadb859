"""The files a store's pixels are written to: one array of raw values, or JPEG images in a row."""

import logging
import math
import zlib
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from contramask.data.config import DatasetConfig
from contramask.data.jpeg import BLOB, CHANNELS, OFFSETS
from contramask.data.prepare import Prepared

PixelKind = Literal["raw", "jpeg"]
Shape = tuple[int, int, int, int]

#: Raw pixels above this share of the machine's memory become JPEG images where `store` is `auto`.
MEMORY_SHARE = 0.5
_ROWS_AT_ONCE = 1024
_BYTES_AT_ONCE = 1 << 24
_log = logging.getLogger(__name__)


def with_kind(config: DatasetConfig, count: int) -> DatasetConfig:
    """The configuration with `store: auto` decided, for so many images, by this machine's memory.

    Only JPEG's channel numbers become JPEG.
    """
    if config.store != "auto":
        return config
    raw, memory = raw_bytes(config, count), psutil.virtual_memory().total
    kind: PixelKind = "raw"
    if raw > MEMORY_SHARE * memory and config.channels in CHANNELS:
        kind = "jpeg"
    _log.info(
        "dataset.store auto: %s, for raw pixels take %.1f GB and this machine has %.1f GB of memory"
        " (jpeg from a share of %g on)",
        *(kind, raw / 1e9, memory / 1e9, MEMORY_SHARE),
    )
    return replace(config, store=kind)


def raw_bytes(config: DatasetConfig, count: int) -> int:
    """Bytes of that many images as raw pixels."""
    return count * math.prod(config.image_size) * config.channels


class ArrayFile:
    """A uint8 `.npy` file, rows of which are written in order; one of an earlier build is kept."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self.array = _opened(path, shape)

    def flush(self) -> None:
        """Put what was written on the disk."""
        self.array.flush()

    def checksum(self, rows: list[int], found: int = 0) -> int:
        """CRC-32 of the rows from rows[0] up to rows[1], going on from `found`."""
        first, last = rows
        for start in range(first, last, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, last)
            found = zlib.crc32(np.ascontiguousarray(self.array[start:stop]).data, found)
        return found

    def finish(self, count: int) -> None:
        """Keep the first `count` rows; nothing can be written any more."""
        self.array.flush()
        del self.array
        if 0 < count < self.shape[0]:
            _shorten(self.path, count)


class RawPixels:
    """`images.npy`, for the packing of a raw store."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self._file = ArrayFile(folder / "images.npy", shape)

    def add(self, row: int, image: Prepared) -> None:
        """Write one image, which must be the next."""
        self._file.array[row] = image.pixels

    def flush(self) -> None:
        """Put what was added on the disk."""
        self._file.flush()

    def sizes(self, first: int, last: int) -> list[int]:
        """What must be known beside the file to find rows again: nothing."""
        return []

    def restore(self, sizes: list[int]) -> None:
        """Take over the next rows, of those sizes, of a build that was stopped."""

    def checksum(self, rows: list[int], sizes: list[int]) -> int:
        """CRC-32 of the bytes of these rows."""
        return self._file.checksum(rows)

    def finish(self, count: int) -> None:
        """Keep the first `count` images."""
        self._file.finish(count)


class JpegPixels:
    """The JPEG images one behind the other in one file and, at the end, where each begins.

    Its methods are those of `RawPixels`; `sizes` are the images' numbers of bytes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / BLOB
        self._stream = path.open("r+b" if path.exists() else "w+b")
        self._ends = [0]

    def add(self, row: int, image: Prepared) -> None:
        """See `RawPixels`."""
        self._stream.seek(self._ends[row])
        self._stream.write(image.jpeg)
        self._ends.append(self._ends[row] + len(image.jpeg))

    def flush(self) -> None:
        """See `RawPixels`."""
        self._stream.flush()

    def sizes(self, first: int, last: int) -> list[int]:
        """See `RawPixels`."""
        return [
            b - a for a, b in zip(self._ends[first:last], self._ends[first + 1 :], strict=False)
        ]

    def restore(self, sizes: list[int]) -> None:
        """See `RawPixels`."""
        self._ends += list(accumulate(sizes, initial=self._ends[-1]))[1:]

    def checksum(self, rows: list[int], sizes: list[int]) -> int:
        """See `RawPixels`; of what the file holds of them, if it is too short."""
        self._stream.flush()
        self._stream.seek(self._ends[rows[0]])
        left, found = sum(sizes), 0
        while piece := self._stream.read(min(left, _BYTES_AT_ONCE)):
            found, left = zlib.crc32(piece, found), left - len(piece)
        return found

    def finish(self, count: int) -> None:
        """See `RawPixels`."""
        self._stream.truncate(self._ends[count])
        self._stream.close()
        np.save(self._folder / OFFSETS, np.array(self._ends[: count + 1], dtype=np.int64))


def _opened(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """The file of an earlier build if it has this shape, else a new one."""
    try:
        there = np.lib.format.open_memmap(path, mode="r+")
        if there.shape == shape and there.dtype == np.uint8:
            return there
    except (OSError, ValueError, EOFError):  # none, or none that is whole: then a new one
        path.unlink(missing_ok=True)
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _shorten(path: Path, count: int) -> None:
    """Keep the first `count` rows of an .npy file."""
    whole = np.load(path, mmap_mode="r", allow_pickle=False)
    shorter = path.with_suffix(".part")
    kept = np.lib.format.open_memmap(
        shorter, mode="w+", dtype=whole.dtype, shape=(count, *whole.shape[1:])
    )
    for start in range(0, count, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, count)
        kept[start:stop] = whole[start:stop]
    kept.flush()
    shorter.replace(path)
