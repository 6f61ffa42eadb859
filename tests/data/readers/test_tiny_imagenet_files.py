from pathlib import Path

import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import tiny_imagenet
from contramask.data.tree import FileTree


@pytest.fixture
def root(draw) -> Path:
    """Two classes of two train images, two val images, test images without labels."""
    names = [f"train/{w}/images/{w}_{i}.JPEG" for w in ("n02", "n01") for i in range(2)]
    folder = draw(*names, "val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/t.JPEG")
    (folder / "wnids.txt").write_text("n02\nn01\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcat\n")
    (folder / "train" / "n01" / "n01_boxes.txt").write_text("n01_0.JPEG\t0\t10\t31\t20\nbroken\n")
    annotations = "val_0.JPEG\tn02\t1\t2\t3\t4\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    (folder / "val" / "val_annotations.txt").write_text(annotations)
    return folder


def _read(root: Path, **values: object):
    return tiny_imagenet.read(DatasetConfig(source="tiny_imagenet", root=root, **values))


def test_labels_and_boxes(root: Path) -> None:
    source = _read(root)
    found = {Path(r.id).stem: r for r in source.records}
    assert source.classes == ["goldfish", "crane"]
    assert {name: (r.split, r.label) for name, r in found.items()} == {
        **{f"n01_{i}": ("train", 0) for i in range(2)},
        **{f"n02_{i}": ("train", 1) for i in range(2)},
        **{"val_0": ("val", 1), "val_1": ("val", 0)},
    }
    assert found["n01_0"].instances[0].box == (0, 10, 32, 21)
    assert found["n01_1"].instances == ()
    assert found["val_0"].instances[0].category == 1
    assert source.facts["damaged_lines"] == 1


def test_limits_keep_classes_balanced(root: Path, build) -> None:
    assert sorted(r.label for r in _read(root, limit=2, val_limit=0).records) == [0, 1]
    built = build(source="tiny_imagenet", root=root)
    assert built.store.has_instances
    assert not built.store.has_instance_masks


def test_recognised(root: Path) -> None:
    assert tiny_imagenet.recognise(FileTree(root)).source == "tiny_imagenet"
    (root / "wnids.txt").unlink()
    assert tiny_imagenet.recognise(FileTree(root)) is None
