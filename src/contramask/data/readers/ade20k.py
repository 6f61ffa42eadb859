"""ADE20K as its scene-parsing benchmark ships it: images and annotations, training and validation.

Mask value 0 is "other" and ignored, n is the n-th class of objectInfo150.txt.
"""

from pathlib import PurePosixPath

from contramask.data.config import DatasetConfig
from contramask.data.masks import mask_code, read_semantic
from contramask.data.readers.layout import EXTENSIONS, Layout
from contramask.data.record import LazyRecords, Record, Source
from contramask.data.split import chosen_rows, settle_splits, split_word
from contramask.data.tree import FileTree, given_tree

NUM_CLASSES = 150
_WANTED = "give the folder ADEChallengeData2016, which holds images/training and annotations"


def read(config: DatasetConfig) -> Source:
    """List the images under `config.root`; raises `ValueError` where the layout is another."""
    tree = given_tree(config.root, "ade20k", _WANTED)
    start = _start(tree)
    if start is None:
        raise ValueError(f"dataset.root {tree.root} is not laid out like ADE20K; {_WANTED}")
    images = tree.below(f"{start}images", *EXTENSIONS)
    masks = [_mask_of(name, start) for name in images]
    code = mask_code([(0, "void"), *enumerate(_class_names(tree, start), 1)], is_colour=False)
    given = [split_word(PurePosixPath(name).parent.name) for name in images]
    splits, split_fact = settle_splits(given, images, config.val_fraction)
    rows = chosen_rows(images, splits, [0] * len(images), (config.limit, config.val_limit))

    def make(i: int) -> Record:
        name, mask = images[rows[i]], masks[rows[i]]
        semantic, notes = read_semantic(tree, mask, code) if mask in tree else (None, ())
        image = tree.image(name)
        return Record(name, image, splits[rows[i]], name, semantic=semantic, notes=notes)

    chosen = [split for split in (splits[i] for i in rows) if split]
    facts = {
        "instance_masks": False,
        "split": split_fact,
        "images_without_mask": sum(mask not in tree for mask in masks),
    }
    records = LazyRecords(len(rows), make)
    return Source(tree.root.name, records, chosen, semantic_classes=code.classes, facts=facts)


def recognise(tree: FileTree) -> Layout | None:
    """images/training and annotations/training side by side."""
    start = _start(tree)
    if start is None:
        return None
    return Layout(
        "ade20k", f"ADE20K with {len(tree.below(f'{start}images', *EXTENSIONS)):,} images"
    )


def _start(tree: FileTree) -> str | None:
    """The path, "" or ending in /, of the folder that holds images and annotations."""
    for start in tree.holders("annotations"):
        parts = (f"{start}images/training", f"{start}annotations/training")
        if tree.below(parts[0], *EXTENSIONS) and tree.below(parts[1], ".png"):
            return start
    return None


def _mask_of(name: str, start: str) -> str:
    inner = PurePosixPath(name.removeprefix(f"{start}images/")).with_suffix(".png")
    return f"{start}annotations/{inner.as_posix()}"


def _class_names(tree: FileTree, start: str) -> list[str]:
    """The first word for each class; numbers where the list is not there or not of 150 lines."""
    name = f"{start}objectInfo150.txt"
    lines = tree.text(name).splitlines()[1:] if name in tree else []
    words = [line.split("\t")[-1].split(",")[0].split(";")[0].strip() for line in lines if line]
    if len(words) != NUM_CLASSES or len(set(words)) != NUM_CLASSES:
        return [f"class {i}" for i in range(1, NUM_CLASSES + 1)]
    return words
