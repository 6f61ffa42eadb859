"""Writes one split of a store image by image, without ever holding the split in memory."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from contramask.data.objects import instance_row, instance_table
from contramask.data.pixel_files import ArrayFile, JpegPixels, PixelKind, RawPixels, Shape
from contramask.data.prepare import Prepared
from contramask.data.store import IGNORED


class SplitWriter:
    """Takes prepared images in order and leaves pixels, `labels.npy`, ... in `folder`.

    `shape` (N, H, W, C) has room for the most images that can come; `has_semantic` and
    `has_instances` say which annotations the source has, `kind` how pixels are kept. `histogram`
    (C, 256) counts pixels by channel and value. Files of this shape that lie in `folder` are gone
    on with (`restore`).
    """

    def __init__(
        self,
        folder: Path,
        shape: Shape,
        has_semantic: bool,
        has_instances: bool,
        kind: PixelKind = "raw",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.has_instances = folder, has_instances
        self.room = shape[0]
        self.images = JpegPixels(folder) if kind == "jpeg" else RawPixels(folder, shape)
        self.semantic = ArrayFile(folder / "semantic.npy", shape[:3]) if has_semantic else None
        self.ids: list[str] = []
        self.labels: list[int] = []
        self.instances: list[dict[str, Any]] = []
        self.histogram = np.zeros((shape[3], 256), dtype=np.int64)
        self._parted = (0, 0, self.histogram.copy())  # images, instances, histogram in parts

    def add(self, image: Prepared) -> None:
        """Append one readable image."""
        row = len(self.ids)
        self.images.add(row, image)
        if self.semantic is not None:
            self.semantic.array[row] = IGNORED if image.semantic is None else image.semantic
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
        rows = [images, len(self.ids)]
        sizes = self.images.sizes(*rows)
        part = {
            "rows": rows,
            "sizes": sizes,
            "checksum": self._checksum(rows, sizes),
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
        fits = first == len(self.ids) and first <= last <= self.room
        return bool(fits and self._checksum(part["rows"], part["sizes"]) == part["checksum"])

    def restore(self, part: dict[str, Any]) -> None:
        """Take over what `part` returned in a build that was stopped."""
        self.images.restore(part["sizes"])
        self.ids += part["ids"]
        self.labels += part["labels"]
        self.instances += part["instances"]
        self.histogram += np.array(part["histogram"], dtype=np.int64)
        self._parted = (len(self.ids), len(self.instances), self.histogram.copy())

    def _checksum(self, rows: list[int], sizes: list[int]) -> int:
        found = self.images.checksum(rows, sizes)
        return found if self.semantic is None else self.semantic.checksum(rows, found)

    def finish(self) -> int:
        """Flush, cut off unused rows and return the number of images; none leaves no folder."""
        count = len(self.ids)
        self.images.finish(count)
        if self.semantic is not None:
            self.semantic.finish(count)
        if not count:
            shutil.rmtree(self.folder)
            return 0
        np.save(self.folder / "labels.npy", np.array(self.labels, dtype=np.int64))
        text = json.dumps(self.ids, indent=0, ensure_ascii=False)
        (self.folder / "ids.json").write_text(text + "\n", encoding="utf-8")
        if self.has_instances:
            table = instance_table(self.instances)
            table.to_parquet(self.folder / "instances.parquet", index=False)
        return count
