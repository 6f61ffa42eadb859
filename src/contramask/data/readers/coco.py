"""COCO: instance annotations in JSON, and optionally a folder of semantic masks.

Categories are numbered anew from 0 without gaps, crowds are kept and marked, boxes become
(x0, y0, x1, y1). Images without objects stay.
"""

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask

from contramask.data.config import DatasetConfig
from contramask.data.readers.coco_semantic import SemanticMasks
from contramask.data.readers.layout import EXTENSIONS, Layout
from contramask.data.record import Instance, LazyRecords, Record, Source
from contramask.data.split import chosen_rows, settle_splits, split_word
from contramask.data.tree import FileTree, given_tree, inside

_WANTED = "give the folder that holds the images and the instances json file"
_OTHER_TASKS = re.compile(r"captions|keypoints|panoptic|stuff|image_info", re.IGNORECASE)
_PEEKED = 1 << 16
_LOOKED_UP = 50  # images by which the folder of a file's images is found
#: Share of objects that must have a mask for masks to be used at all.
_ENOUGH_MASKS = 0.99
_MASK_ERRORS = (ValueError, IndexError, KeyError, TypeError, RuntimeError, MemoryError)


@dataclass(frozen=True)
class _Image:
    name: str  # in the tree
    split: str | None
    size: tuple[int, int] | None  # (height, width) that the annotations refer to
    semantic: str
    objects: list[dict[str, Any]]


def read(config: DatasetConfig) -> Source:
    """Read the annotations under `config.root`; raises `ValueError` where they do not fit."""
    tree = given_tree(config.root, "coco", _WANTED)
    images, names, facts = _all_images(tree, config)
    position = {category: i for i, category in enumerate(sorted(names))}
    masked = _count(images, facts)
    semantic = SemanticMasks.find(tree, config)
    ids = [image.name for image in images]
    given = [image.split for image in images]
    splits, facts["split"] = settle_splits(given, ids, config.val_fraction)
    rows = chosen_rows(ids, splits, [0] * len(ids), (config.limit, config.val_limit))

    def make(i: int) -> Record:
        image, split = images[rows[i]], splits[rows[i]]
        found, notes = _instances(image, position, masked)
        mask, more = semantic.read(image.name, image.semantic) if semantic else (None, ())
        return Record(
            *(image.name, tree.image(image.name), split, image.name, None, mask),
            instances=found,
            annotation_size=image.size,
            notes=(*notes, *more),
        )

    chosen = [split for split in (splits[i] for i in rows) if split]
    return Source(
        name=tree.root.name,
        records=LazyRecords(len(rows), make),
        splits=chosen,
        semantic_classes=semantic.code.classes if semantic else [],
        instance_classes=[names[category] for category in position],
        facts=facts,
    )


def _all_images(
    tree: FileTree, config: DatasetConfig
) -> tuple[list[_Image], dict[int, str], dict[str, Any]]:
    """The images of all files, the names of their categories, and facts."""
    facts: dict[str, Any] = {"images_missing": 0}
    images: list[_Image] = []
    names: dict[int, str] = {}
    facts["annotations"] = files = _annotation_files(tree, config)
    for file in files:
        images += _images_of(tree, config, file, names, facts)
    if not images:
        raise ValueError(
            f"none of the {facts['images_missing']} images that {', '.join(files)} names lies"
            f" under dataset.root {tree.root}; name their folder with dataset.images"
        )
    return images, names, facts


def recognise(tree: FileTree) -> Layout | None:
    """A JSON file that names images, annotations and categories."""
    files = _candidates(tree)
    if not files:
        return None
    keys = {}
    if "semantic_masks" in {name.split("/")[0] for name in tree.names}:
        keys["masks"] = "semantic_masks"
    return Layout("coco", f"COCO annotations in {', '.join(files[:4])}", keys)


def _annotation_files(tree: FileTree, config: DatasetConfig) -> list[str]:
    if config.annotations is not None:
        given = inside(tree, config.annotations, "annotations")
        found = [given] if given in tree else _candidates(tree, given)
    else:
        found = _candidates(tree)
    if not found:
        raise ValueError(
            f"dataset.root {tree.root} holds no json file with images, annotations and categories;"
            " name it with dataset.annotations"
        )
    return found


def _candidates(tree: FileTree, folder: str = "") -> list[str]:
    found = [name for name in tree.below(folder, ".json") if not _OTHER_TASKS.search(name)]
    instances = [name for name in found if PurePosixPath(name).name.startswith("instances")]
    return instances or [name for name in found if _looks_right(tree, name)]


def _looks_right(tree: FileTree, name: str) -> bool:
    try:
        content = tree.read(name)
    except (OSError, ValueError):
        return False
    start = content[:_PEEKED] + content[-_PEEKED:]
    words = sum(f'"{word}"'.encode() in start for word in ("images", "annotations", "categories"))
    return words >= 2 and b'"file_name"' in content


def _images_of(
    tree: FileTree, config: DatasetConfig, file: str, names: dict[int, str], facts: dict[str, Any]
) -> list[_Image]:
    """The images of one file that are there; adds its categories to `names`."""
    try:
        content = json.loads(tree.text(file))
        for category in content["categories"]:
            if names.setdefault(int(category["id"]), str(category["name"])) != category["name"]:
                raise ValueError(f"category {category['id']} has two names in two files")
        objects = defaultdict(list)
        for entry in content["annotations"]:
            objects[entry["image_id"]].append(entry)
        listed = [(str(image["file_name"]), image) for image in content["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{tree.root / file} is not in COCO's format ({error!r})") from error
    split = _split_of(file)
    start = _image_folder(tree, config, file, [name for name, _ in listed])
    images = []
    for name, image in listed:
        if start + name not in tree:
            facts["images_missing"] += 1
            continue
        size = (int(image.get("height") or 0), int(image.get("width") or 0))
        semantic = str(image.get("semantic") or "")
        own = objects.get(image["id"], [])
        images.append(_Image(start + name, split, size if all(size) else None, semantic, own))
    return images


def _split_of(file: str) -> str | None:
    path = PurePosixPath(file)
    words = [*re.split(r"[_.\-]", path.stem), *path.parts[:-1]]
    return next((split_word(word) for word in words if split_word(word)), None)


def _image_folder(tree: FileTree, config: DatasetConfig, file: str, listed: list[str]) -> str:
    """The folder ("" or ending in /) under which most of the file names lie."""
    if config.images is not None:
        return inside(tree, config.images, "images") + "/"
    folders = {""}
    for name in tree.below("", *EXTENSIONS):
        folders |= {f"{parent}/" for parent in PurePosixPath(name).parents if parent.parts}
    split = _split_of(file)

    def rank(folder: str) -> tuple[int, bool, int]:
        there = sum(folder + name in tree for name in listed[:_LOOKED_UP])
        is_of_split = split in {split_word(part) for part in folder.split("/")}
        return there, is_of_split, -len(folder)

    return max(sorted(folders), key=rank)


def _count(images: list[_Image], facts: dict[str, Any]) -> bool:
    """Fill in the facts about the objects; returns whether their masks are used."""
    objects = [entry for image in images for entry in image.objects]
    kinds = Counter(bool(entry.get("segmentation")) for entry in objects)
    facts["objects"], facts["crowds"] = len(objects), sum(bool(e.get("iscrowd")) for e in objects)
    facts["objects_without_mask"] = kinds[False]
    used = bool(objects) and kinds[True] >= _ENOUGH_MASKS * len(objects)
    facts["instance_masks"] = used
    return used


def _instances(
    image: _Image, position: dict[int, int], masked: bool
) -> tuple[tuple[Instance, ...], tuple[str, ...]]:
    found, lost = [], Counter[str]()
    for entry in image.objects:
        try:
            category, box = position[entry["category_id"]], _box(entry["bbox"])
        except (KeyError, TypeError, ValueError):
            lost["has {} objects without a usable box or category, left out"] += 1
            continue
        mask = None
        if masked and image.size and entry.get("segmentation"):
            try:
                mask = _mask(entry["segmentation"], *image.size)
            except _MASK_ERRORS:
                lost["has {} objects with a damaged mask, of which the box was used"] += 1
        found.append(Instance(category, box, mask, bool(entry.get("iscrowd"))))
    return tuple(found), tuple(text.format(count) for text, count in lost.items())


def _box(given: Any) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in given)
    if not (np.isfinite([x, y, width, height]).all() and width > 0 and height > 0):
        raise ValueError("a box without an area")
    return x, y, x + width, y + height


def _mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Polygons or run lengths, plain or compressed, as bool (H, W)."""
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise ValueError("a mask of another size than its image")
        plain = isinstance(segmentation["counts"], list)
        coded = coco_mask.frPyObjects(segmentation, height, width) if plain else segmentation
    else:
        reach = 2.0 * max(height, width)  # absurd corners would take for ever to draw
        parts = [np.clip(np.array(p, float), -reach, reach).tolist() for p in segmentation]
        coded = coco_mask.merge(coco_mask.frPyObjects(parts, height, width))
    return np.asarray(coco_mask.decode(coded), dtype=bool).reshape(height, width)
