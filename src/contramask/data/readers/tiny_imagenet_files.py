"""Tiny-ImageNet-200 unpacked as its authors ship it: folders of JPEGs and text files of boxes."""

from pathlib import Path
from typing import Any

from contramask.data.config import DatasetConfig
from contramask.data.readers.rows import distinct
from contramask.data.record import Instance, LazyRecords, Record, Source, Split
from contramask.data.split import chosen_rows
from contramask.data.tree import FileTree

Box = tuple[float, float, float, float]


def is_there(root: Path) -> bool:
    """Whether `root` has the list of classes and the train folder of the original set."""
    return (root / "wnids.txt").is_file() and (root / "train").is_dir()


def read(config: DatasetConfig, root: Path) -> Source:
    """List train and val (the test images have no labels); damaged lines of boxes are counted."""
    tree = FileTree(root)
    wnids = sorted(tree.text("wnids.txt").split())
    position = {wnid: i for i, wnid in enumerate(wnids)}
    facts: dict[str, Any] = {"instance_masks": False, "damaged_lines": 0}
    boxes, wnid_of = _annotations(tree, wnids, facts)
    names: list[str] = []
    splits: list[Split | None] = []
    labels: list[int] = []
    for name in tree.below("train", ".jpeg", ".jpg", ".png"):
        names.append(name)
        splits.append("train")
        labels.append(position.get(name.split("/")[1], -1))
    for name in tree.below("val", ".jpeg", ".jpg", ".png"):
        names.append(name)
        splits.append("val")
        labels.append(position.get(wnid_of.get(name.rsplit("/", 1)[-1], ""), -1))
    if "train" not in splits:
        raise ValueError(f"dataset.root {root} holds no image below its folder train")
    rows = chosen_rows(names, splits, labels, (config.limit, config.val_limit))

    def make(i: int) -> Record:
        name, label = names[rows[i]], labels[rows[i]]
        box = boxes.get(name.rsplit("/", 1)[-1])
        return Record(
            *(name, tree.image(name), splits[rows[i]], name, label if label >= 0 else None),
            instances=(Instance(label, box),) if box and label >= 0 else (),
        )

    classes = _class_names(tree, wnids)
    chosen = [split for split in (splits[i] for i in rows) if split]
    return Source(
        *(root.name, LazyRecords(len(rows), make), chosen, classes),
        instance_classes=classes,
        facts=facts,
    )


def _annotations(
    tree: FileTree, wnids: list[str], facts: dict[str, Any]
) -> tuple[dict[str, Box], dict[str, str]]:
    """The box of each image file, and the class of each val file."""
    boxes: dict[str, Box] = {}
    wnid_of: dict[str, str] = {}
    files = [f"train/{wnid}/{wnid}_boxes.txt" for wnid in wnids]
    for file in [*files, "val/val_annotations.txt"]:
        for line in tree.text(file).splitlines() if file in tree else ():
            try:
                name, *wnid, x0, y0, x1, y1 = line.split()
                boxes[name] = (float(x0), float(y0), float(x1) + 1, float(y1) + 1)
            except ValueError:
                facts["damaged_lines"] += 1
                continue
            if wnid:
                wnid_of[name] = wnid[0]
    return boxes, wnid_of


def _class_names(tree: FileTree, wnids: list[str]) -> list[str]:
    if "words.txt" not in tree:
        return wnids
    lines = (line.partition("\t") for line in tree.text("words.txt").splitlines())
    words = {wnid: text.split(",")[0].strip() for wnid, _, text in lines}
    return distinct([words.get(wnid) or wnid for wnid in wnids])
