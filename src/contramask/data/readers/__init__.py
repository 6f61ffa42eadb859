"""Sources of images: one module each, registered here by the name `dataset.source` uses."""

from collections.abc import Callable

from contramask.data.config import DatasetConfig
from contramask.data.readers import digit_scenes, folder, tiny_imagenet
from contramask.data.record import Source

READERS: dict[str, Callable[[DatasetConfig], Source]] = {
    "digit_scenes": digit_scenes.read,
    "folder": folder.read,
    "tiny_imagenet": tiny_imagenet.read,
}
