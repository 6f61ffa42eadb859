"""Oxford-IIIT Pet: 37 breeds, and a trimap a picture, from which mask and object are taken.

Trimap values are 1 pet, 2 background, 3 border: the border is ignored in the semantic mask and
belongs to the object, whose category is cat or dog. The lists' trainval is train, test is val. The
head boxes, which only trainval has, are not used.
"""

from pathlib import PurePosixPath

import numpy as np

from contramask.data.config import DatasetConfig
from contramask.data.framing import tight_box
from contramask.data.masks import mask_values
from contramask.data.readers.layout import Layout
from contramask.data.record import Instance, LazyRecords, Record, Source, UnreadableImage
from contramask.data.split import chosen_rows, settle_splits
from contramask.data.store import IGNORED
from contramask.data.tree import FileTree, given_tree

SPECIES = ["cat", "dog"]
_WANTED = "give the folder that holds images and annotations/trimaps"
_LISTS = {"trainval": "train", "test": "test"}
_PET, _BACKGROUND = 1, 2


def read(config: DatasetConfig) -> Source:
    """List the images under `config.root`; raises `ValueError` where the layout is another."""
    tree = given_tree(config.root, "oxford_pets", _WANTED)
    start = _start(tree)
    if start is None:
        raise ValueError(f"dataset.root {tree.root} is not laid out like Oxford Pets; {_WANTED}")
    images = [n for n in tree.below(f"{start}images", ".jpg") if _breed(n)]
    breeds = sorted({_breed(name) for name in images}, key=str.lower)
    labels = [breeds.index(_breed(name)) for name in images]
    given = _listed(tree, start)
    words = [given.get(PurePosixPath(name).stem) for name in images]
    splits, split_fact = settle_splits(words, images, config.val_fraction, labels)
    rows = chosen_rows(images, splits, labels, (config.limit, config.val_limit))

    def make(i: int) -> Record:
        name, label = images[rows[i]], labels[rows[i]]
        mask = f"{start}annotations/trimaps/{PurePosixPath(name).stem}.png"
        semantic, objects, notes = _annotations(tree, mask, _species(name))
        return Record(
            *(name, tree.image(name), splits[rows[i]], name, label, semantic, objects),
            annotation_size=None if semantic is None else semantic.shape[:2],
            notes=notes,
        )

    chosen = [split for split in (splits[i] for i in rows) if split]
    return Source(
        name=tree.root.name,
        records=LazyRecords(len(rows), make),
        splits=chosen,
        classes=[breed.replace("_", " ") for breed in breeds],
        semantic_classes=["background", "pet"],
        instance_classes=SPECIES,
        facts={"instance_masks": True, "split": split_fact, "outside_splits": splits.count(None)},
    )


def recognise(tree: FileTree) -> Layout | None:
    """images beside annotations/trimaps."""
    start = _start(tree)
    if start is None:
        return None
    return Layout(
        "oxford_pets", f"Oxford Pets, {len(tree.below(f'{start}images', '.jpg')):,} images"
    )


def _start(tree: FileTree) -> str | None:
    for start in tree.holders("annotations"):
        if tree.below(f"{start}annotations/trimaps", ".png") and tree.below(f"{start}images"):
            return start
    return None


def _breed(name: str) -> str:
    """The name up to its number: great_pyrenees_12.jpg."""
    breed, _, number = PurePosixPath(name).stem.rpartition("_")
    return breed if number.isdigit() else ""


def _species(name: str) -> int:
    """Cats' file names begin with a capital letter."""
    return 0 if PurePosixPath(name).name[0].isupper() else 1


def _listed(tree: FileTree, start: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for file, word in _LISTS.items():
        name = f"{start}annotations/{file}.txt"
        for line in tree.text(name).splitlines() if name in tree else ():
            if line.strip() and not line.startswith("#"):
                given[line.split()[0]] = word
    return given


def _annotations(
    tree: FileTree, name: str, species: int
) -> tuple[np.ndarray | None, tuple[Instance, ...], tuple[str, ...]]:
    if name not in tree:
        return None, (), ()
    try:
        trimap = mask_values(tree.read(name), is_colour=False)
    except (OSError, UnreadableImage) as error:
        return None, (), (f"has a trimap that was left out: it {error}",)
    semantic = np.full(trimap.shape, IGNORED, np.uint8)
    semantic[trimap == _BACKGROUND], semantic[trimap == _PET] = 0, 1
    pet = trimap != _BACKGROUND
    if not pet.any():
        return semantic, (), ()
    return semantic, (Instance(species, tight_box(pet), pet),), ()
