"""A folder of image files of any layout; unlabelled unless its folders are asked to be classes."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from contramask.data.config import DatasetConfig
from contramask.data.record import SPLITS, Record, Source, Split
from contramask.data.split import balanced_choice, split_by_name

EXTENSIONS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"))
#: Folders directly under root that are taken as splits when both a train and a val one are there.
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
}


@dataclass(frozen=True)
class _Found:
    """One image file: where it is, its name inside root (posix), and the folders of that name."""

    file: Path
    name: str
    parts: tuple[str, ...]


def read(config: DatasetConfig) -> Source:
    """List the images under `config.root`; raises `ValueError` when there are none."""
    root = _checked_root(config.root)
    ignored: Counter[str] = Counter()
    found = sorted(_images(root, ignored), key=lambda image: image.name)
    if not found:
        there = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items())) or "nothing"
        raise ValueError(
            f"dataset.root {root} holds no image files (found: {there}); give a folder with"
            f" {' '.join(sorted(EXTENSIONS))} files, at any depth"
        )
    facts: dict[str, Any] = {"ignored_files": dict(sorted(ignored.items()))}
    found, splits = _split(found, config, facts)
    labels, classes = _labels(found, splits, config, facts)
    kept = _limited(found, splits, labels, config)
    records = [
        Record(
            id=found[i].name,
            image=found[i].file,
            split=splits[i],
            path=found[i].name,
            label=labels[i] if labels[i] >= 0 else None,
        )
        for i in kept
    ]
    return Source(root.name or "folder", records, [splits[i] for i in kept], classes, facts=facts)


def list_images(root: Path) -> list[tuple[str, Path]]:
    """All image files under a folder at any depth: (name inside it, file), sorted by name."""
    return sorted((image.name, image.file) for image in _images(root, Counter()))


def _checked_root(given: Path | None) -> Path:
    example = "give the folder that holds the images, for example dataset.root=data/01_raw/images"
    if given is None:
        raise ValueError(
            f"dataset.source folder needs dataset.root, and it was not given; {example}"
        )
    root = given.expanduser().resolve()
    if not root.exists():
        raise ValueError(f"dataset.root {root} does not exist (seen from {Path.cwd()}); {example}")
    if not root.is_dir():
        raise ValueError(f"dataset.root {root} is a file; {example}")
    return root


def _images(root: Path, ignored: Counter[str]) -> Iterator[_Found]:
    visited = set()

    def closed(error: OSError) -> None:
        ignored["folder that cannot be opened"] += 1

    for here, folders, files in os.walk(root, onerror=closed, followlinks=True):
        if os.path.realpath(here) in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(os.path.realpath(here))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (Path(here, name) for name in files if not name.startswith(".")):
            if file.suffix.lower() in EXTENSIONS:
                # A name that is no UTF-8 could not be written into any table.
                relative = os.fsencode(file.relative_to(root).as_posix()).decode("utf-8", "replace")
                yield _Found(file, relative, PurePosixPath(relative).parts[:-1])
            else:
                ignored[file.suffix.lower() or "without extension"] += 1


def _split(
    found: list[_Found], config: DatasetConfig, facts: dict[str, Any]
) -> tuple[list[_Found], list[Split]]:
    tops = [SPLIT_FOLDERS.get(image.parts[0].lower()) if image.parts else None for image in found]
    if set(SPLITS) <= set(tops):
        kept = [(image, split) for image, split in zip(found, tops, strict=True) if split]
        facts["split"] = "folders train and val"
        facts["outside_splits"] = len(found) - len(kept)
        return [image for image, _ in kept], [split for _, split in kept]
    facts["split"] = f"by file name, {config.val_fraction:g} into val"
    return found, split_by_name([image.name for image in found], config.val_fraction)


def _labels(
    found: list[_Found], splits: list[Split], config: DatasetConfig, facts: dict[str, Any]
) -> tuple[list[int], list[str]]:
    """The class index of each image (-1 without one) and the class names."""
    if config.labels == "none":
        return [-1] * len(found), []
    depth = 1 if facts["split"].startswith("folders") else 0
    names = [image.parts[depth] if len(image.parts) > depth else "" for image in found]
    classes = sorted(set(names) - {""})
    if len(classes) < 2:
        raise ValueError(
            f"dataset.labels folders needs one folder a class under dataset.root {config.root}"
            f" (<class>/... or train/<class>/... and val/<class>/...), and found {len(classes)};"
            " sort the images into folders or set dataset.labels=none"
        )
    facts["without_class_folder"] = names.count("")
    position = {name: i for i, name in enumerate(classes)}
    return [position.get(name, -1) for name in names], classes


def _limited(
    found: list[_Found], splits: list[Split], labels: list[int], config: DatasetConfig
) -> list[int]:
    kept = []
    for split, limit in zip(SPLITS, (config.limit, config.val_limit), strict=True):
        own = [i for i, given in enumerate(splits) if given == split]
        chosen = balanced_choice([found[i].name for i in own], [labels[i] for i in own], limit)
        kept += [own[i] for i in chosen]
    return sorted(kept)
