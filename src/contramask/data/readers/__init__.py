"""Sources of images: one module each, registered here by the name `dataset.source` uses.

`READERS` read what a config says; `RECOGNISERS` say whether files look like a source's, most
specific first.
"""

from collections.abc import Callable

from contramask.data.config import DatasetConfig
from contramask.data.readers import (
    ade20k,
    cifar,
    coco,
    digit_scenes,
    folder,
    huggingface,
    imagenette,
    manifest,
    mask_pairs,
    oxford_pets,
    tiny_imagenet,
    voc,
    webdataset,
)
from contramask.data.readers.layout import Layout
from contramask.data.record import Source
from contramask.data.tree import FileTree

READERS: dict[str, Callable[[DatasetConfig], Source]] = {
    "digit_scenes": digit_scenes.read,
    "folder": folder.read,
    "manifest": manifest.read,
    "tiny_imagenet": tiny_imagenet.read,
    "coco": coco.read,
    "mask_pairs": mask_pairs.read,
    "voc": voc.read,
    "ade20k": ade20k.read,
    "oxford_pets": oxford_pets.read,
    "webdataset": webdataset.read,
    "huggingface": huggingface.read,
    "imagenette": imagenette.read,
    "cifar10": cifar.read,
    "cifar100": cifar.read,
}
RECOGNISERS: list[Callable[[FileTree], Layout | None]] = [
    tiny_imagenet.recognise,
    cifar.recognise,
    imagenette.recognise,
    oxford_pets.recognise,
    ade20k.recognise,
    voc.recognise,
    coco.recognise,
    mask_pairs.recognise,
    webdataset.recognise,
    manifest.recognise,
    folder.recognise,
]
