"""Imagenette: train and val with ten class folders each, called by WordNet number."""

from dataclasses import replace

from contramask.data.config import DatasetConfig
from contramask.data.readers import folder
from contramask.data.readers.layout import Layout
from contramask.data.record import Source
from contramask.data.tree import FileTree

#: Its classes, by the folder that holds them.
NAMES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def read(config: DatasetConfig) -> Source:
    """List the images under `config.root`; raises `ValueError` as the folder reader does."""
    found = folder.read(replace(config, source="folder", labels="folders"))
    return replace(
        found, name="imagenette", classes=[NAMES.get(name, name) for name in found.classes]
    )


def recognise(tree: FileTree) -> Layout | None:
    """Its ten folders under train."""
    for start in tree.holders("train"):
        below = {name.removeprefix(f"{start}train/").split("/")[0] for name in tree.loose}
        if set(NAMES) <= below:
            return Layout("imagenette", "Imagenette's ten class folders under train")
    return None
