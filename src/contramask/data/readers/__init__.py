"""Sources of images: one module each, registered here by the name `dataset.source` uses.

`READERS` read what a config says; `RECOGNISERS` say whether files look like a source's, most
specific first.
"""

from collections.abc import Callable

from contramask.data.config import DatasetConfig
from contramask.data.readers import coco, digit_scenes, folder, mask_pairs, tiny_imagenet
from contramask.data.readers.layout import Layout
from contramask.data.record import Source
from contramask.data.tree import FileTree

READERS: dict[str, Callable[[DatasetConfig], Source]] = {
    "digit_scenes": digit_scenes.read,
    "folder": folder.read,
    "tiny_imagenet": tiny_imagenet.read,
    "coco": coco.read,
    "mask_pairs": mask_pairs.read,
}
RECOGNISERS: list[Callable[[FileTree], Layout | None]] = [
    coco.recognise,
    mask_pairs.recognise,
    folder.recognise,
]
