import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contramask.data.config import DatasetConfig
from contramask.data.readers import READERS
from contramask.data.survey import survey

DATA = Path(__file__).parents[3] / "shared" / "data"


def _unwatched(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    return items


def _survey(path: Path, limit: int = 0) -> dict[str, Any]:
    found = survey(path, limit, _unwatched)
    assert json.loads(json.dumps(found)) == found
    return found


def _save(path: Path, seed: int, size: tuple[int, int] = (20, 30), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def _given(command: str) -> dict[str, str]:
    """The keys of `dataset` that a printed command sets."""
    parameters = shlex.split(command)[-1]
    pairs = (pair.split("=") for pair in parameters.split(","))
    return {key.removeprefix("dataset."): value for key, value in pairs}


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes in train and val, and a file that lies in both."""
    root = tmp_path / "my classes"
    for i, name in enumerate(("train/a/1", "train/b/2", "train/b/3", "val/a/4", "val/b/5")):
        _save(root / f"{name}.jpg", i, size=(20 + i, 30))
    (root / "val" / "a" / "again.jpg").write_bytes((root / "train" / "a" / "1.jpg").read_bytes())
    (root / "notes.txt").write_text("words")
    return root


def test_a_folder_of_classes(classes: Path) -> None:
    found = _survey(classes)
    (layout,) = found["layouts"]
    assert _given(layout["command"]) == {
        **{"source": "folder", "root": str(classes)},
        "labels": "folders",
    }
    source = READERS["folder"](DatasetConfig(**_given(layout["command"])))
    assert source.classes == ["a", "b"]
    assert found["splits"] == {"train": 3, "val": 3}
    assert found["files"] == {
        **{"count": 7, "by_ending": {".jpg": 6, ".txt": 1}},
        "not_opened": {},
    }
    assert found["annotations"]["classes"] == {"a": 3, "b": 3}
    assert found["duplicates"]["across_splits"] == 1
    assert found["duplicates"]["examples"] == [["train/a/1.jpg", "val/a/again.jpg"]]
    images = found["images"]
    assert (images["found"], images["decoded"], images["readable"]) == (6, 6, 6)
    assert (images["format"], images["mode"]) == ({"JPEG": 6}, {"RGB": 6})
    assert images["sizes"]["height"]["min"] == 20
    assert images["sizes"]["height"]["max"] == 24
    assert found["problems"] == []


def test_the_sample_is_spread_and_everything_is_counted(tmp_path: Path) -> None:
    for i in range(30):
        _save(tmp_path / f"{i:02}.png", i)
    found = _survey(tmp_path, limit=4)
    assert (found["images"]["found"], found["images"]["decoded"]) == (30, 4)
    assert found["files"]["count"] == 30


def test_odd_files_are_named_with_what_would_happen(tmp_path: Path) -> None:
    _save(tmp_path / "good.png", 0)
    _save(tmp_path / "called.jpg", 1, format="PNG")
    (tmp_path / "empty.png").write_bytes(b"")
    np.save(tmp_path / "bands.npy", np.zeros((20, 30, 6), np.uint8))
    Image.fromarray(np.zeros((20, 30, 4), np.uint8)).save(tmp_path / "clear.png")
    found = {problem["id"]: problem for problem in _survey(tmp_path)["problems"]}
    assert {name: problem["action"] for name, problem in found.items()} == {
        **{"bands.npy": "skipped", "empty.png": "skipped", "clear.png": "converted"},
        "called.jpg": "used",
    }
    assert "6 channels and the store keeps 3" in found["bands.npy"]["problem"]
    assert found["called.jpg"]["problem"] == "is PNG and called .jpg"


def test_images_of_many_channels_set_the_key(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((20, 30, 6), i, np.uint8))
    _save(tmp_path / "other.png", 0)
    found = _survey(tmp_path)
    assert _given(found["layouts"][0]["command"])["channels"] == "6"
    assert [problem["id"] for problem in found["problems"]] == ["other.png"]
    assert found["images"]["channels"] == {"6": 3, "3": 1}


def test_a_layout_that_cannot_be_read_is_said_and_the_next_one_used(tmp_path: Path) -> None:
    _save(tmp_path / "a.jpg", 0)
    (tmp_path / "instances_train.json").write_text("{")
    found = _survey(tmp_path)
    assert [layout["source"] for layout in found["layouts"]] == ["coco", "folder"]
    assert "not in COCO's format" in found["layouts"][0]["complaint"]
    assert found["layouts"][1]["complaint"] == ""
    assert found["images"]["readable"] == 1


def test_masks_are_not_offered_as_images(tmp_path: Path) -> None:
    for i in range(3):
        _save(tmp_path / "images" / f"{i}.jpg", i)
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(
            _save(tmp_path / "masks" / f"{i}.png", i)
        )
    found = _survey(tmp_path)
    assert [layout["source"] for layout in found["layouts"]] == ["mask_pairs"]
    assert found["annotations"]["with_mask"] == 3


def test_single_files_and_nothing_at_all(tmp_path: Path) -> None:
    image = _save(tmp_path / "a.png", 0)
    assert _survey(image)["images"]["readable"] == 1
    (tmp_path / "words.txt").write_text("words")
    found = _survey(tmp_path / "words.txt")
    assert (found["layouts"], found["images"]["readable"]) == ([], 0)
    (tmp_path / "empty").mkdir()
    assert _survey(tmp_path / "empty")["images"]["found"] == 0
    with pytest.raises(ValueError, match="nowhere does not exist"):
        _survey(tmp_path / "nowhere")


def test_a_name_that_parameters_cannot_hold(tmp_path: Path) -> None:
    root = tmp_path / "a, b"
    _save(root / "a.png", 0)
    command = _survey(root)["layouts"][0]["command"]
    assert f'root: "{root}"' in command
    assert "conf/local/parameters.yml" in command


def test_a_damaged_record_is_one_problem(tmp_path: Path, monkeypatch) -> None:
    for i in range(3):
        _save(tmp_path / f"{i}.png", i)
    folder = sys.modules["contramask.data.readers.folder"]
    monkeypatch.setattr(folder, "Record", lambda *given: 1 / 0)
    found = _survey(tmp_path)
    assert [problem["problem"] for problem in found["problems"]] == ["division by zero"] * 3


@pytest.mark.parametrize(
    ("name", "source"),
    [
        *(("coco-mini", "coco"), ("nuclei-dsb2018", "coco"), ("camvid", "mask_pairs")),
        *(("imagenette224-subset", "manifest"), ("tiny-imagenet-200", "tiny_imagenet")),
    ],
)
def test_real_sets(name: str, source: str) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"{name} is not on this machine")
    found = _survey(DATA / name, limit=10)
    assert (found["layouts"][0]["source"], found["layouts"][0]["complaint"]) == (source, "")
    assert found["images"]["readable"] == 10
    assert not [problem for problem in found["problems"] if problem["action"] == "skipped"]
