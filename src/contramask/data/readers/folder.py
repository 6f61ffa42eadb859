"""A folder of image files of any layout; unlabelled unless its folders are asked to be classes."""

import os
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

from contramask.data.config import DatasetConfig
from contramask.data.readers.layout import EXTENSIONS, Layout
from contramask.data.record import LazyRecords, Record, Source, Split
from contramask.data.split import chosen_rows, settle_splits, split_word
from contramask.data.tree import FileTree, given_tree

_WANTED = "give the folder that holds the images, for example dataset.root=data/01_raw/images"


def read(config: DatasetConfig) -> Source:
    """List the images under `config.root`; raises `ValueError` when there are none."""
    tree = given_tree(config.root, "folder", _WANTED)
    names = images_in(tree)
    ignored = _ignored(tree, names)
    if not names:
        there = ", ".join(f"{count} {kind}" for kind, count in ignored.items()) or "nothing"
        raise ValueError(
            f"dataset.root {tree.root} holds no image files (found: {there}); give a folder with"
            f" {' '.join(sorted(EXTENSIONS))} files, at any depth"
        )
    facts: dict[str, Any] = {"ignored_files": ignored}
    given = _split_words(names, _top(names))
    folders = _class_names(names, any(given)) if config.labels == "folders" else [""] * len(names)
    splits, facts["split"] = settle_splits(given, names, config.val_fraction, folders)
    facts["outside_splits"] = splits.count(None)
    labels, classes = _labels(folders, splits, config, facts)
    rows = chosen_rows(names, splits, labels, (config.limit, config.val_limit))

    def make(i: int) -> Record:
        name, label = names[rows[i]], labels[rows[i]]
        image = tree.image(name)
        return Record(name, image, splits[rows[i]], name, label if label >= 0 else None)

    chosen = [split for split in (splits[i] for i in rows) if split]
    records = LazyRecords(len(rows), make)
    return Source(tree.root.name or "folder", records, chosen, classes, facts=facts)


def recognise(tree: FileTree) -> Layout | None:
    """Any image will do; folders count as classes where each holds images and none lies beside."""
    names = images_in(tree)
    if not names:
        return None
    words = [word for word in _split_words(names, _top(names)) if word]
    class_names = {name for name in _class_names(names, bool(words)) if name}
    if len(class_names) < 2 or "" in _class_names(names, bool(words)):
        return Layout("folder", f"{len(names):,} image files")
    return Layout(
        *("folder", f"{len(names):,} image files in {len(class_names)} class folders"),
        {"labels": "folders"},
    )


def images_in(tree: FileTree) -> list[str]:
    """The image files by extension; those inside zip files only where no other is there."""
    loose = [name for name in tree.loose if _is_image(name)]
    return loose or [name for name in tree.names if _is_image(name)]


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _ignored(tree: FileTree, names: list[str]) -> dict[str, int]:
    taken = set(names)
    others = (PurePosixPath(name).suffix.lower() for name in tree.names if name not in taken)
    counts = Counter(suffix or "without extension" for suffix in others) + tree.closed
    return dict(sorted(counts.items()))


def _top(names: list[str]) -> int:
    """How many folders wrap everything (an unpacked archive often adds one)."""
    parents = [PurePosixPath(name).parts[:-1] for name in (min(names), max(names))]
    depth = 0
    while all(len(p) > depth for p in parents) and parents[0][depth] == parents[1][depth]:
        depth += 1
    return depth


def _split_words(names: list[str], depth: int) -> list[str | None]:
    """What the folder at `depth` says; nothing at all unless there are several parts."""
    parents = [PurePosixPath(name).parts[:-1] for name in names]
    words = [split_word(p[depth]) if len(p) > depth else None for p in parents]
    known = set(words) - {None}
    return words if "train" in known and len(known) > 1 else [None] * len(names)


def _class_names(names: list[str], has_splits: bool) -> list[str]:
    depth = _top(names) + has_splits
    parents = [PurePosixPath(name).parts[:-1] for name in names]
    return [p[depth] if len(p) > depth else "" for p in parents]


def _labels(
    folders: list[str], splits: list[Split | None], config: DatasetConfig, facts: dict[str, Any]
) -> tuple[list[int], list[str]]:
    """The class index of each image (-1 without one) and the class names."""
    if config.labels == "none":
        return [-1] * len(folders), []
    kept = [name for name, split in zip(folders, splits, strict=True) if split]
    classes = sorted(set(kept) - {""})
    if len(classes) < 2:
        raise ValueError(
            f"dataset.labels folders needs one folder a class under dataset.root {config.root}"
            f" (<class>/... or train/<class>/... and val/<class>/...), and found {len(classes)};"
            " sort the images into folders or set dataset.labels=none"
        )
    facts["without_class_folder"] = kept.count("")
    position = {name: i for i, name in enumerate(classes)}
    return [position.get(name, -1) for name in folders], classes
