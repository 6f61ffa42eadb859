from pathlib import Path

import pytest
from PIL import Image

from contramask.data.config import DatasetConfig
from contramask.data.readers import folder


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(root / name)
    return root


def _read(root: Path, **options: object):
    return folder.read(DatasetConfig(source="folder", root=root, **options))


def test_any_depth_and_case_is_found_and_the_rest_counted(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "deep/er/b.JPG", "deep/c.webp", "d.tiff", ".hidden.png", ".git/e.png")
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "LICENSE").write_text("words")
    source = _read(tmp_path)
    assert [r.id for r in source.records] == ["a.png", "d.tiff", "deep/c.webp", "deep/er/b.JPG"]
    assert source.facts["ignored_files"] == {".txt": 1, "without extension": 1}
    assert all(record.label is None for record in source.records)
    assert source.classes == []
    assert source.name == tmp_path.name


def test_split_is_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(40)]
    first = _read(_touch(tmp_path / "one", *names), val_fraction=0.3)
    again = _read(_touch(tmp_path / "two" / "place", *names), val_fraction=0.3, seed=5)
    assert list(first.splits) == list(again.splits)
    assert 4 <= list(first.splits).count("val") <= 20
    assert [record.split for record in first.records] == list(first.splits)


def test_given_split_folders_are_used(tmp_path: Path) -> None:
    source = _read(_touch(tmp_path, "Train/a.png", "valid/x/b.png", "test/c.png", "d.png"))
    assert [(r.id, r.split) for r in source.records] == [
        ("Train/a.png", "train"),
        ("valid/x/b.png", "val"),
    ]
    assert source.facts["outside_splits"] == 2


def test_folders_are_classes_only_when_asked(tmp_path: Path) -> None:
    names = ["train/cat/1.png", "train/dog/x/2.png", "val/dog/3.png", "train/4.png"]
    _touch(tmp_path, *names)
    assert _read(tmp_path).classes == []
    source = _read(tmp_path, labels="folders")
    assert source.classes == ["cat", "dog"]
    found = {record.id: record.label for record in source.records}
    assert found == {names[0]: 0, names[1]: 1, names[2]: 1, names[3]: None}
    assert source.facts["without_class_folder"] == 1


def test_class_folders_without_split(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{kind}/{i}.png" for kind in ("a", "b", "c") for i in range(20)))
    source = _read(tmp_path, labels="folders", limit=9)
    train = [r.label for r in source.records if r.split == "train"]
    assert sorted(train) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match=r"found 0; sort the images into folders"):
        _read(_touch(tmp_path / "flat", "1.png", "2.png"), labels="folders")


def test_limits(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"{i}.png" for i in range(30)))
    source = _read(tmp_path, limit=5, val_limit=0, val_fraction=0.3)
    assert list(source.splits) == ["train"] * 5


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    _touch(tmp_path / "outside", "a.png")
    _touch(tmp_path / "root", "b.png")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    assert [r.id for r in _read(tmp_path / "root").records] == ["b.png", "link/a.png"]


def test_unusable_roots_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not exist .*dataset\.root="):
        _read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"dataset\.root, and it was not given"):
        folder.read(DatasetConfig(source="folder"))
    with pytest.raises(ValueError, match=r"is a file"):
        _read(_touch(tmp_path, "a.png") / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no image files \(found: nothing\)"):
        _read(tmp_path / "empty")
    (tmp_path / "empty" / "a.csv").write_text("1")
    with pytest.raises(ValueError, match=r"found: 1 \.csv"):
        _read(tmp_path / "empty")
