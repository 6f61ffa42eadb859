"""Images and semantic masks that share their names: CamVid and most home-made sets.

Images and masks may lie in two folders (images/train/a.jpg and masks/train/a.png, train/a.png and
trainannot/a.png, ...) or side by side (a.jpg and a_mask.png).
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from contramask.data.class_file import find_class_file, read_class_file
from contramask.data.config import DatasetConfig
from contramask.data.masks import MaskCode, found_code, mask_code, read_semantic
from contramask.data.readers.layout import EXTENSIONS, Layout
from contramask.data.record import LazyRecords, Record, Source, UnreadableImage
from contramask.data.split import chosen_rows, settle_splits, split_word
from contramask.data.tree import FileTree, given_tree, inside

_WANTED = "give the folder that holds images and masks of the same names"
_PART = "train(?:ing)?|val(?:id(?:ation)?)?|test"
_MASKS = re.compile(
    rf"({_PART})?[-_ ]?(?:semantic[-_ ]?|seg[-_ ]?)?(?:masks?|annot(?:ations?)?|gt|labels?"
    rf"|labell?ed.*|segmentations?|ground[-_ ]?truths?)[-_ ]?({_PART})?",
    re.IGNORECASE,
)
_IMAGES = re.compile(
    rf"({_PART})?[-_ ]?(?:images?|imgs?|jpe?gimages|rgb|photos?|.*raw.*)[-_ ]?({_PART})?",
    re.IGNORECASE,
)
_MASK_STEM = re.compile(
    r"(.+?)[-_. ](?:masks?|labels?|gt|seg(?:mentation)?|annot|(?-i:L))", re.IGNORECASE
)
_LOOKED_AT = 200  # masks whose values are taken for the classes when no file names them
_MASK_EXTENSIONS = EXTENSIONS - {".jpg", ".jpeg", ".jfif", ".npy"}
Key = tuple[str, ...]


def read(config: DatasetConfig) -> Source:
    """Pair the images under `config.root` with masks; raises `ValueError` when none fit."""
    tree = given_tree(config.root, "mask_pairs", _WANTED)
    pairs, masks_left = _pairs(tree, config)
    if not any(pairs.values()):
        raise ValueError(
            f"dataset.root {tree.root} holds {len(pairs)} images and {masks_left} masks, and no two"
            " have the same name; name the two folders with dataset.images and dataset.masks"
        )
    facts: dict[str, Any] = {"instance_masks": False}
    code = _code(tree, config, sorted(mask for mask in pairs.values() if mask), facts)
    names = list(pairs)
    splits, facts["split"] = settle_splits(
        [_split_of(name) for name in names], names, config.val_fraction
    )
    facts |= {"outside_splits": splits.count(None), "masks_without_image": masks_left}
    facts["images_without_mask"] = sum(not mask for mask in pairs.values())
    rows = chosen_rows(names, splits, [0] * len(names), (config.limit, config.val_limit))

    def make(i: int) -> Record:
        name = names[rows[i]]
        mask = pairs[name]
        semantic, notes = read_semantic(tree, mask, code) if mask else (None, ())
        image = tree.image(name)
        return Record(name, image, splits[rows[i]], name, semantic=semantic, notes=notes)

    chosen = [split for split in (splits[i] for i in rows) if split]
    records = LazyRecords(len(rows), make)
    return Source(tree.root.name, records, chosen, semantic_classes=code.classes, facts=facts)


def recognise(tree: FileTree) -> Layout | None:
    """At least half of the images have a mask of their name."""
    pairs, _ = _paired(*_told_apart(tree))
    count = sum(bool(mask) for mask in pairs.values())
    if count < 2 or 2 * count < len(pairs):
        return None
    return Layout("mask_pairs", f"{count:,} images with a mask of the same name")


def _pairs(tree: FileTree, config: DatasetConfig) -> tuple[dict[str, str], int]:
    """Image -> mask ("" without one), and how many masks have no image."""
    images, masks = _told_apart(tree)
    if config.masks is not None:
        folder = inside(tree, config.masks, "masks")
        masks = {name: _key(name, folder) for name in tree.below(folder, *_MASK_EXTENSIONS)}
        everything = {name: _key(name) for name in tree.below("", *EXTENSIONS)}
        images = {name: key for name, key in everything.items() if name not in masks}
    if config.images is not None:
        folder = inside(tree, config.images, "images")
        images = {name: _key(name, folder) for name in tree.below(folder, *EXTENSIONS)}
        masks = {name: key for name, key in masks.items() if name not in images}
    return _paired(images, masks)


def _told_apart(tree: FileTree) -> tuple[dict[str, Key], dict[str, Key]]:
    """The images and the masks, each with the key that a pair has in common."""
    images: dict[str, Key] = {}
    masks: dict[str, Key] = {}
    for name in tree.below("", *EXTENSIONS):
        (masks if _is_mask(name) else images)[name] = _key(name)
    return images, masks


def _is_mask(name: str) -> bool:
    path = PurePosixPath(name)
    if path.suffix.lower() not in _MASK_EXTENSIONS:
        return False
    if any(_MASKS.fullmatch(part) for part in path.parts[:-1]):
        return True
    is_among_images = any(_IMAGES.fullmatch(part) for part in path.parts[:-1])
    return not is_among_images and bool(_MASK_STEM.fullmatch(path.stem))


def _key(name: str, folder: str = "") -> Key:
    """What image and mask have in common: folders without the words for either, and the stem."""
    path = PurePosixPath(name)
    inner = path.relative_to(folder) if folder else path
    parts = []
    for part in inner.parts[:-1]:
        found = _MASKS.fullmatch(part) or _IMAGES.fullmatch(part)
        words = [word for word in found.groups() if word] if found else [part]
        parts += [split_word(word) or word for word in words]
    stem = _MASK_STEM.fullmatch(path.stem)
    return (*parts, stem[1] if stem and _is_mask(name) else path.stem)


def _paired(images: dict[str, Key], masks: dict[str, Key]) -> tuple[dict[str, str], int]:
    by_key = {key: name for name, key in masks.items()}
    by_stem = {key[-1]: name for name, key in masks.items()}
    stems = Counter(key[-1] for key in images.values())
    is_single = len(by_stem) == len(masks)
    pairs = {}
    for name, key in images.items():
        lone = by_stem.get(key[-1], "") if is_single and stems[key[-1]] == 1 else ""
        pairs[name] = by_key.get(key, lone)
    return pairs, len(masks) - len(set(pairs.values()) - {""})


def _split_of(name: str) -> str | None:
    for part in PurePosixPath(name).parts[:-1]:
        found = _IMAGES.fullmatch(part)
        for word in [*(found.groups() if found else ()), part]:
            if word and split_word(word):
                return split_word(word)
    return None


def _code(
    tree: FileTree, config: DatasetConfig, masks: list[str], facts: dict[str, Any]
) -> MaskCode:
    file = find_class_file(tree, config.classes_file)
    if file is not None:
        facts["classes_from"] = file
        return mask_code(*read_class_file(tree, file))
    step = max(1, len(masks) // _LOOKED_AT)
    looked_at = masks[::step][:_LOOKED_AT]
    facts["classes_from"] = f"the values of {len(looked_at)} of {len(masks)} masks"
    try:
        return found_code(_readable(tree, looked_at))
    except ValueError as error:
        raise ValueError(
            f"the classes of dataset.root {tree.root} are not clear: {error}; name them with"
            " dataset.classes_file"
        ) from error


def _readable(tree: FileTree, masks: list[str]) -> Iterator[bytes]:
    for name in masks:
        try:
            yield tree.read(name)
        except (OSError, UnreadableImage):
            continue  # noted again, with its image, when that is read
