"""Writes one split of a store image by image, without ever holding the split in memory."""

import json
import shutil
from pathlib import Path

import numpy as np

from contramask.data.objects import instance_row, instance_table
from contramask.data.prepare import Prepared
from contramask.data.store import IGNORED

_ROWS_AT_ONCE = 1024


class SplitWriter:
    """Takes prepared images in order and leaves `images.npy`, `labels.npy`, ... in `folder`.

    `shape` (N, H, W, C) has room for the most images that can come; `has_semantic` and
    `has_instances` say which annotations the source has. `histogram` (C, 256) counts pixels by
    channel and value.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int, int, int],
        has_semantic: bool,
        has_instances: bool,
    ) -> None:
        folder.mkdir(parents=True)
        self.folder, self.has_instances = folder, has_instances
        self.images = _create(folder / "images.npy", shape)
        self.semantic = None
        if has_semantic:
            self.semantic = _create(folder / "semantic.npy", shape[:3])
        self.ids: list[str] = []
        self.labels: list[int] = []
        self.instances: list[dict[str, object]] = []
        self.histogram = np.zeros((shape[3], 256), dtype=np.int64)

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


def _create(path: Path, shape: tuple[int, ...]) -> np.memmap:
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
