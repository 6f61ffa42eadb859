from pathlib import Path

import numpy as np
import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import ade20k
from contramask.data.tree import FileTree


@pytest.fixture
def root(draw, mask) -> Path:
    folder = draw(
        *("ADE/images/training/a.jpg", "ADE/images/training/b.jpg", "ADE/images/validation/c.jpg")
    )
    values = np.zeros((24, 32), np.uint8)
    values[:8], values[8:10], values[10] = 1, 150, 151
    for name in ("training/a", "validation/c"):
        mask(folder / "ADE" / "annotations" / f"{name}.png", values)
    return folder


def _read(root: Path):
    return ade20k.read(DatasetConfig(source="ade20k", root=root))


def test_values_are_shifted_and_other_is_ignored(root: Path) -> None:
    source = _read(root)
    assert list(source.splits) == ["train", "train", "val"]
    assert len(source.semantic_classes) == 150
    found = source.records[0]
    assert np.unique(found.semantic).tolist() == [0, 149, 255]
    assert "32 mask pixels" in found.notes[0]
    assert source.records[1].semantic is None
    assert source.facts["images_without_mask"] == 1


def test_names_of_the_list(root: Path) -> None:
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    lines += [f"{i}\t0.1\t1\t1\t1\tthing {i}, other word" for i in range(1, 151)]
    (root / "ADE" / "objectInfo150.txt").write_text("\n".join(lines))
    assert _read(root).semantic_classes[:2] == ["thing 1", "thing 2"]
    (root / "ADE" / "objectInfo150.txt").write_text("\n".join(lines[:9]))
    assert _read(root).semantic_classes[:2] == ["class 1", "class 2"]


def test_recognised_or_explained(root: Path) -> None:
    assert ade20k.recognise(FileTree(root)).source == "ade20k"
    assert ade20k.recognise(FileTree(root / "ADE" / "images")) is None
    with pytest.raises(ValueError, match="not laid out like ADE20K; give the folder"):
        _read(root / "ADE" / "images")
