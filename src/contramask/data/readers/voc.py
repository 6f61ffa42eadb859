"""Pascal VOC: JPEGImages, and where there are such, Annotations (boxes) and SegmentationClass.

Boxes count from 1 and include their last pixel; objects marked difficult are kept as crowds, which
evaluation ignores. The border value 255 of masks is ignored. Lists in ImageSets say the split;
where an image is in two, that of segmentation holds.
"""

import xml.etree.ElementTree as ElementTree
from pathlib import PurePosixPath
from typing import Any

from contramask.data.config import DatasetConfig
from contramask.data.masks import MaskCode, mask_code, read_semantic
from contramask.data.readers.layout import EXTENSIONS, Layout
from contramask.data.record import Instance, LazyRecords, Record, Source
from contramask.data.split import chosen_rows, settle_splits
from contramask.data.tree import FileTree, given_tree

CLASSES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]
_WANTED = "give the folder that holds JPEGImages"
Object = tuple[str, tuple[float, float, float, float], bool]


def read(config: DatasetConfig) -> Source:
    """List the images under `config.root`; raises `ValueError` where the layout is another."""
    tree = given_tree(config.root, "voc", _WANTED)
    start = _start(tree)
    images = tree.below(f"{start}JPEGImages", *EXTENSIONS)
    objects, facts = _all_objects(tree, start)
    found = {name for own in objects.values() for name, _, _ in own}
    classes = CLASSES if found <= set(CLASSES) and found else sorted(found)
    position = {name: i for i, name in enumerate(classes)}
    masks = {
        PurePosixPath(name).stem: name for name in tree.below(f"{start}SegmentationClass", ".png")
    }
    code = mask_code(list(enumerate(["background", *CLASSES])), is_colour=False)
    given = _listed(tree, start)
    splits, facts["split"] = settle_splits(
        [given.get(PurePosixPath(name).stem) for name in images], images, config.val_fraction
    )
    facts |= {"outside_splits": splits.count(None), "masks": len(masks), "instance_masks": False}
    rows = chosen_rows(images, splits, [0] * len(images), (config.limit, config.val_limit))

    def make(i: int) -> Record:
        name = images[rows[i]]
        stem = PurePosixPath(name).stem
        semantic, notes = _semantic(tree, masks.get(stem), code)
        own = tuple(
            Instance(position[c], box, None, hard) for c, box, hard in objects.get(stem, ())
        )
        return Record(
            *(name, tree.image(name), splits[rows[i]], name, None, semantic, own), notes=notes
        )

    chosen = [split for split in (splits[i] for i in rows) if split]
    return Source(
        name=tree.root.name,
        records=LazyRecords(len(rows), make),
        splits=chosen,
        semantic_classes=code.classes if masks else [],
        instance_classes=classes,
        facts=facts,
    )


def recognise(tree: FileTree) -> Layout | None:
    """A folder JPEGImages beside Annotations or SegmentationClass."""
    found = [
        start
        for start in tree.holders("JPEGImages")
        if tree.below(f"{start}Annotations", ".xml") or tree.below(f"{start}SegmentationClass")
    ]
    if len(found) != 1:
        return None
    count = len(tree.below(f"{found[0]}JPEGImages", *EXTENSIONS))
    return Layout("voc", f"Pascal VOC with {count:,} images in {found[0]}JPEGImages")


def _start(tree: FileTree) -> str:
    """The path, "" or ending in /, of the folder that holds JPEGImages."""
    found = tree.holders("JPEGImages")
    if len(found) != 1:
        listed = f"several folders JPEGImages ({', '.join(found)})" if found else "no such folder"
        raise ValueError(f"dataset.root {tree.root} holds {listed}; {_WANTED}")
    return found[0]


def _listed(tree: FileTree, start: str) -> dict[str, str]:
    """The split of each image name that a list in ImageSets gives."""
    given: dict[str, str] = {}
    for part in ("Main", "Segmentation"):
        for word in ("train", "val", "test"):
            name = f"{start}ImageSets/{part}/{word}.txt"
            if name in tree:
                given |= dict.fromkeys(tree.text(name).split(), word)
    return given


def _all_objects(tree: FileTree, start: str) -> tuple[dict[str, list[Object]], dict[str, Any]]:
    objects: dict[str, list[Object]] = {}
    facts: dict[str, Any] = {"damaged_annotations": 0, "difficult": 0}
    for name in tree.below(f"{start}Annotations", ".xml"):
        try:
            root = ElementTree.fromstring(tree.read(name))
            own = [_object(entry) for entry in root.iter("object")]
        except (OSError, ValueError, ElementTree.ParseError):
            facts["damaged_annotations"] += 1
            continue
        objects[PurePosixPath(name).stem] = own
        facts["difficult"] += sum(hard for _, _, hard in own)
    return objects, facts


def _object(entry: ElementTree.Element) -> Object:
    name, box = entry.findtext("name", "").strip(), entry.find("bndbox")
    if not name or box is None:
        raise ValueError("an object without a name or a box")
    x0, y0, x1, y1 = (float(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))
    if not (x0 <= x1 and y0 <= y1):
        raise ValueError("a box that ends before it begins")
    return name, (x0 - 1, y0 - 1, x1, y1), entry.findtext("difficult", "0").strip() == "1"


def _semantic(tree: FileTree, name: str | None, code: MaskCode) -> tuple[Any, tuple[str, ...]]:
    return read_semantic(tree, name, code) if name else (None, ())
