import io
import json
import tarfile
from pathlib import Path

import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import webdataset
from contramask.data.tree import FileTree


def _write(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def _read(root: Path, **values: object):
    return webdataset.read(DatasetConfig(source="webdataset", root=root, **values))


@pytest.fixture
def shards(tmp_path: Path, picture) -> Path:
    first = {"000.jpg": picture(seed=0), "000.cls": b"2", "001.png": picture("PNG", seed=1)}
    first |= {"001.cls": b"0\n", "001.txt": b"words", "002.txt": b"no image"}
    second = {"003.jpg": picture(seed=3), "003.json": b'{"label": 2}', "a/004.jpg": b"no image"}
    _write(tmp_path / "set" / "train-000.tar", first)
    _write(tmp_path / "set" / "more" / "val-000.tar", second)
    return tmp_path / "set"


def test_examples_of_all_shards(shards: Path, build) -> None:
    source = _read(shards)
    assert [r.id for r in source.records] == [
        *("val-000/003", "val-000/a/004", "train-000/000", "train-000/001")
    ]
    assert list(source.splits) == ["val", "val", "train", "train"]
    assert source.classes == ["0", "2"]
    assert [r.label for r in source.records] == [1, None, 1, 0]
    built = build(source="webdataset", root=shards)
    assert built.problems["id"].tolist() == ["val-000/a/004"]
    assert len(built.store["train"]) == 2


def test_names_of_classes(shards: Path) -> None:
    (shards / "classes.txt").write_text("zero\none\ntwo\n")
    assert _read(shards).classes == ["zero", "one", "two"]
    assert [r.label for r in _read(shards).records] == [2, None, 2, 0]


def test_words_and_other_keys(tmp_path: Path, picture) -> None:
    members = {"a.jpg": picture(), "a.json": json.dumps({"kind": "cat"}).encode()}
    members |= {
        "b.jpg": picture(),
        "b.json": b"{",
        "c.jpg": picture(),
        "c.json": b'{"kind": "ant"}',
    }
    path = _write(tmp_path / "x.tar", members)
    source = _read(path, label_column="kind", val_fraction=0)
    assert source.classes == ["ant", "cat"]
    assert [r.label for r in source.records] == [1, None, 0]


def test_damaged_shards(shards: Path, build) -> None:
    whole = (shards / "train-000.tar").read_bytes()
    (shards / "train-000.tar").write_bytes(whole[: whole.index(b"\x89PNG") + 40])
    (shards / "train-001.tar").write_bytes(b"no tar file" * 99)
    source = _read(shards)
    assert "train-001.tar" in " ".join(source.facts["damaged_shards"])
    built = build(source="webdataset", root=shards, max_problem_share=1, val_fraction=0)
    assert any("cut off at the end of train-000.tar" in p for p in built.problems["problem"])


def test_misfits_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tar file with images of WebDataset's layout"):
        _read(tmp_path)
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"unpacked to \.tar"):
        _read(tmp_path)


def test_recognised(shards: Path) -> None:
    assert webdataset.recognise(FileTree(shards)).source == "webdataset"
    assert webdataset.recognise(FileTree(shards.parent / "nowhere")) is None
