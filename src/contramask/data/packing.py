"""Writes one split of a store image by image, without ever holding the split in memory."""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from contramask.data.objects import instance_row, instance_table
from contramask.data.prepare import Prepared
from contramask.data.store import IGNORED

_ROWS_AT_ONCE = 1024


class SplitWriter:
    """Takes prepared images in order and leaves `images.npy`, `labels.npy`, ... in `folder`.

    `shape` (N, H, W, C) has room for the most images that can come; `has_semantic` and
    `has_instances` say which annotations the source has. `histogram` (C, 256) counts pixels by
    channel and value. Files of this shape that lie in `folder` are gone on with (`restore`).
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int, int, int],
        has_semantic: bool,
        has_instances: bool,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.has_instances = folder, has_instances
        self.images = _opened(folder / "images.npy", shape)
        self.semantic = None
        if has_semantic:
            self.semantic = _opened(folder / "semantic.npy", shape[:3])
        self.ids: list[str] = []
        self.labels: list[int] = []
        self.instances: list[dict[str, Any]] = []
        self.histogram = np.zeros((shape[3], 256), dtype=np.int64)
        self._parted = (0, 0, self.histogram.copy())  # images, instances, histogram in parts

    def add(self, image: Prepared) -> None:
        """Append one readable image."""
        row = len(self.ids)
        self.images[row] = image.pixels
        if self.semantic is not None:
            self.semantic[row] = IGNORED if image.semantic is None else image.semantic
        self.instances += [instance_row(row, instance) for instance in image.instances]
        self.ids.append(image.id)
        self.labels.append(image.label)
        self.histogram += image.histogram

    def part(self) -> dict[str, Any]:
        """What was added since the last call, as plain values, once its pixels are on the disk."""
        self.images.flush()
        if self.semantic is not None:
            self.semantic.flush()
        images, instances, histogram = self._parted
        part = {
            "rows": [images, len(self.ids)],
            "checksum": self._checksum(images, len(self.ids)),
            "ids": self.ids[images:],
            "labels": self.labels[images:],
            "instances": self.instances[instances:],
            "histogram": (self.histogram - histogram).tolist(),
        }
        self._parted = (len(self.ids), len(self.instances), self.histogram.copy())
        return part

    def holds(self, part: dict[str, Any]) -> bool:
        """Whether the pixels of a part, which must be the next, are in the files."""
        first, last = part["rows"]
        fits = first == len(self.ids) and first <= last <= len(self.images)
        return bool(fits and self._checksum(first, last) == part["checksum"])

    def restore(self, part: dict[str, Any]) -> None:
        """Take over what `part` returned in a build that was stopped."""
        self.ids += part["ids"]
        self.labels += part["labels"]
        self.instances += part["instances"]
        self.histogram += np.array(part["histogram"], dtype=np.int64)
        self._parted = (len(self.ids), len(self.instances), self.histogram.copy())

    def _checksum(self, first: int, last: int) -> int:
        found = 0
        for array in (self.images, self.semantic):
            if array is None:
                continue
            for start in range(first, last, _ROWS_AT_ONCE):
                stop = min(start + _ROWS_AT_ONCE, last)
                found = zlib.crc32(np.ascontiguousarray(array[start:stop]).data, found)
        return found

    def finish(self) -> int:
        """Flush, cut off unused rows and return the number of images; none leaves no folder."""
        count, names = len(self.ids), ["images.npy"]
        is_short = count < len(self.images)
        self.images.flush()
        del self.images
        if self.semantic is not None:
            self.semantic.flush()
            names.append("semantic.npy")
            self.semantic = None
        if not count:
            shutil.rmtree(self.folder)
            return 0
        for name in names if is_short else []:
            _shorten(self.folder / name, count)
        np.save(self.folder / "labels.npy", np.array(self.labels, dtype=np.int64))
        text = json.dumps(self.ids, indent=0, ensure_ascii=False)
        (self.folder / "ids.json").write_text(text + "\n", encoding="utf-8")
        if self.has_instances:
            table = instance_table(self.instances)
            table.to_parquet(self.folder / "instances.parquet", index=False)
        return count


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
