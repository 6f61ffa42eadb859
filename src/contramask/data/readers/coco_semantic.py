"""Semantic masks beside COCO annotations: category ids as pixels, or COCO's panoptic colours."""

import json
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from contramask.data.class_file import find_class_file, read_class_file
from contramask.data.config import DatasetConfig
from contramask.data.masks import MaskCode, mask_code, mask_values, read_semantic
from contramask.data.record import UnreadableImage
from contramask.data.tree import FileTree, inside


class SemanticMasks:
    """The masks of a folder by the name of their image.

    With `segments` (mask file -> segment id -> category id) the masks are panoptic: a pixel is the
    segment R + 256 G + 65536 B.
    """

    def __init__(
        self,
        tree: FileTree,
        folder: str,
        code: MaskCode,
        segments: dict[str, dict[int, int]] | None = None,
    ) -> None:
        self.tree, self.code, self.segments = tree, code, segments
        self.by_key: dict[str, str] = {}
        for name in tree.below(folder, ".png", ".tif", ".tiff", ".bmp"):
            parts = PurePosixPath(name).relative_to(folder).with_suffix("").parts
            for start in range(len(parts)):  # train/0001 and 0001
                self.by_key.setdefault("/".join(parts[start:]), name)

    @classmethod
    def find(cls, tree: FileTree, config: DatasetConfig) -> "SemanticMasks | None":
        """The masks of `dataset.masks`; None when it is not set; raises `ValueError` otherwise."""
        if config.masks is None:
            return None
        folder = inside(tree, config.masks, "masks")
        panoptic = [name for name in tree.below("", ".json") if "panoptic" in name.lower()]
        if panoptic:
            names, segments = _panoptic(tree, panoptic)
            return cls(tree, folder, mask_code(names, is_colour=False), segments)
        file = find_class_file(tree, config.classes_file)
        if file is None:
            raise ValueError(
                f"the masks in {tree.root / folder} need a list of their classes: give"
                ' dataset.classes_file, for example {"1": "person", "2": "bicycle", ...}, or a'
                " panoptic json file beside them"
            )
        return cls(tree, folder, mask_code(*read_class_file(tree, file)))

    def read(self, image: str, hint: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
        """A record's `semantic` and `notes`; `hint` is the mask's name if the annotations say it.

        None without a note where an image has no mask.
        """
        parts = PurePosixPath(hint or image).with_suffix("").parts
        keys = ["/".join(parts[start:]) for start in range(len(parts))]
        name = next((self.by_key[key] for key in keys if key in self.by_key), None)
        if name is None:
            return None, ()
        if self.segments is None:
            return read_semantic(self.tree, name, self.code)
        return self._panoptic_mask(name, self.segments.get(PurePosixPath(name).name, {}))

    def _panoptic_mask(
        self, name: str, segments: dict[int, int]
    ) -> tuple[np.ndarray | None, tuple[str, ...]]:
        try:
            values = mask_values(self.tree.read(name), is_colour=True)
        except (OSError, UnreadableImage) as error:
            return None, (f"has a mask {PurePosixPath(name).name} that was left out: it {error}",)
        # Our colours are 65536 R + 256 G + B, COCO's ids R + 256 G + 65536 B.
        ids = (values >> 16) + (values & 0xFF00) + ((values & 0xFF) << 16)
        categories = np.zeros(values.shape, np.int64)
        for segment, category in segments.items():
            categories[ids == segment] = category
        return self.code.classify(categories)[0], ()


def _panoptic(
    tree: FileTree, files: list[str]
) -> tuple[list[tuple[int, str]], dict[str, dict[int, int]]]:
    """Categories, and the segments of each mask file."""
    names: dict[int, str] = {}
    segments: dict[str, dict[int, int]] = {}
    for file in files:
        try:
            content: Any = json.loads(tree.text(file))
            names |= {int(c["id"]): str(c["name"]) for c in content["categories"]}
            for entry in content["annotations"]:
                own = {int(s["id"]): int(s["category_id"]) for s in entry["segments_info"]}
                segments[PurePosixPath(entry["file_name"]).name] = own
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{tree.root / file} is not in COCO's panoptic format ({error!r})"
            ) from error
    return sorted(names.items()), segments
