import errno
import hashlib
import io
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from contramask.data import build
from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.index import INDEX_COLUMNS, PROBLEM_COLUMNS
from contramask.failures import StageFailure


def _picture(seed: int, size: tuple[int, int] = (40, 50)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _good(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        _picture(i).save(folder / f"good_{i}.png")


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Ten good images and seven files as real folders have them."""
    folder = tmp_path / "messy"
    _good(folder, 10)
    stream = io.BytesIO()
    _picture(50, (200, 200)).save(stream, "JPEG")
    (folder / "cut.jpg").write_bytes(stream.getvalue()[:-5000])
    (folder / "letter.jpg").write_text("Dear reader, this is no picture.")
    (folder / "empty.png").write_bytes(b"")
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(folder / "deep.png")
    clear = np.random.default_rng(1).integers(0, 256, (40, 40, 4), dtype=np.uint8)
    Image.fromarray(clear).save(folder / "clear.png")
    _picture(51).convert("CMYK").save(folder / "print.jpg")
    Image.new("RGB", (3, 5000)).save(folder / "line.png")
    return folder


def test_each_bad_file_is_reported_and_nothing_else_is_lost(messy: Path, tmp_path: Path) -> None:
    built = build_dataset(DatasetConfig(source="folder", root=messy), tmp_path / "work")
    actions = dict(zip(built.problems["id"], built.problems["action"], strict=True))
    skipped = ["cut.jpg", "empty.png", "letter.jpg", "line.png"]
    converted = ["clear.png", "deep.png", "print.jpg"]
    assert {name for name, action in actions.items() if action == "skipped"} == set(skipped)
    assert {name for name, action in actions.items() if action == "converted"} == set(converted)
    kept = [name for split in built.store.splits.values() for name in split.ids]
    assert sorted(kept) == sorted([*(f"good_{i}.png" for i in range(10)), *converted])
    assert (built.card["unreadable"], built.card["converted"]) == (4, 3)
    assert list(built.problems.columns) == PROBLEM_COLUMNS
    assert list(built.index.columns) == INDEX_COLUMNS
    assert len(built.index) == 17
    text = dict(zip(built.problems["id"], built.problems["problem"], strict=True))
    assert "0 bytes" in text["empty.png"]
    assert "Dear reader" in text["letter.jpg"]
    assert "damaged" in text["cut.jpg"]
    assert "3 x 5000" in text["line.png"]


def test_index_says_what_the_files_are(messy: Path, tmp_path: Path) -> None:
    index = build_dataset(DatasetConfig(source="folder", root=messy), tmp_path / "work").index
    index = index.set_index("id")
    good = index.loc["good_3.png"]
    assert (good["height"], good["width"], good["mode"], good["ok"]) == (40, 50, "RGB", True)
    assert good["sha256"] == hashlib.sha256((messy / "good_3.png").read_bytes()).hexdigest()
    assert (good["label"], good["label_name"], good["problem"]) == (-1, "", "")
    assert index.loc["deep.png", "bit_depth"] == 16
    assert index.loc["clear.png", "channels"] == 4
    assert not index.loc["empty.png", "ok"]


def test_too_many_problems_stop_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    _good(folder, 30)
    for i in range(20):
        (folder / f"bad_{i:02}.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"bad_00\.png(.|\n)*") as caught:
        build_dataset(DatasetConfig(source="folder", root=folder), tmp_path / "work")
    assert "20 of 50" in str(caught.value)
    assert "dataset.max_problem_share" in str(caught.value)
    config = DatasetConfig(source="folder", root=folder, max_problem_share=0.5)
    assert build_dataset(config, tmp_path / "work").card["unreadable"] == 20


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full.*is packed is kept"),
        (MemoryError(), r"the memory ran out.*Set dataset\.workers"),
    ],
)
def test_what_the_machine_refuses_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def refused(*given: object) -> None:
        raise error

    monkeypatch.setattr(build, "_pack", refused)
    config = DatasetConfig(scenes=ScenesConfig(num_train=4, num_val=2))
    with pytest.raises(StageFailure, match=said):
        build_dataset(config, tmp_path)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"no readable train image(.|\n)*a\.png is not an image"):
        build_dataset(DatasetConfig(source="folder", root=tmp_path / "bad"), tmp_path / "work")


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_equal_inputs_give_equal_bytes_whatever_the_threads(tmp_path: Path) -> None:
    found = []
    for name, workers in (("a", 1), ("b", 3)):
        config = DatasetConfig(scenes=ScenesConfig(num_train=80, num_val=20), workers=workers)
        built = build_dataset(config, tmp_path / name)
        built.index.to_parquet(tmp_path / f"{name}.parquet")
        index = hashlib.sha256((tmp_path / f"{name}.parquet").read_bytes()).hexdigest()
        card = json.dumps(built.card, sort_keys=True)
        sheet = built.contact_sheet.tobytes()
        found.append((_digest(tmp_path / name / "store"), card, index, sheet))
    assert found[0] == found[1]


def test_hash_follows_pixels_and_normalisation(tmp_path: Path) -> None:
    def data_hash(**changes: object) -> str:
        config = DatasetConfig(scenes=ScenesConfig(num_train=20, num_val=5), **changes)
        return build_dataset(config, tmp_path / "work").store.data_hash

    hashes = [data_hash(), data_hash(seed=1), data_hash(normalize="imagenet"), data_hash(limit=19)]
    assert len(set(hashes)) == 4
    assert hashes[0] == data_hash()


def test_mean_and_std_are_those_of_the_train_pixels(tmp_path: Path) -> None:
    config = DatasetConfig(scenes=ScenesConfig(num_train=20, num_val=5))
    store = build_dataset(config, tmp_path / "work").store
    pixels = store["train"].images.reshape(-1, 3) / 255
    np.testing.assert_allclose(store.manifest["mean"], pixels.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(store.manifest["std"], pixels.std(axis=0), atol=1e-6)
    imagenet = DatasetConfig(scenes=config.scenes, normalize="imagenet")
    other = build_dataset(imagenet, tmp_path / "work").store
    assert other.manifest["mean"] == [0.485, 0.456, 0.406]


def test_single_colour_images_do_not_divide_by_zero(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (40, 40), "white").save(tmp_path / "flat" / "white.png")
    config = DatasetConfig(source="folder", root=tmp_path / "flat")
    built = build_dataset(config, tmp_path / "work")
    assert min(built.store.manifest["std"]) > 0
    assert list(built.store.splits) == ["train"]
    assert built.problems.empty


def test_duplicates_within_and_across_splits_are_named(tmp_path: Path) -> None:
    for name in ("train/a.png", "train/b.png", "val/c.png", "val/d.png"):
        path = tmp_path / "twice" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _picture(0 if name[-5] in "abc" else 1).save(path)
    built = build_dataset(
        DatasetConfig(source="folder", root=tmp_path / "twice"), tmp_path / "work"
    )
    found = built.card["duplicates"]
    assert (found["within_train"], found["within_val"], found["across"]) == (1, 0, 1)
    assert found["examples"] == [["train/a.png", "val/c.png", "train/b.png"]]


def test_card_sums_up(tmp_path: Path) -> None:
    config = DatasetConfig(scenes=ScenesConfig(num_train=40, num_val=10), image_size=48)
    card = build_dataset(config, tmp_path / "work").card
    assert card["splits"] == {"train": 40, "val": 10}
    assert card["class_counts"]["train"] == {str(digit): 4 for digit in range(10)}
    assert card["sizes"]["height"] == {"min": 48, "median": 48, "max": 48}
    assert card["modes"] == {"RGB": 50}
    assert json.loads(json.dumps(card)) == card


def test_a_stopped_run_leaves_nothing_behind(tmp_path: Path) -> None:
    left = tmp_path / "work" / "store" / "train"
    left.mkdir(parents=True)
    (left / "images.npy").write_bytes(b"half")
    config = DatasetConfig(scenes=ScenesConfig(num_train=5, num_val=0))
    built = build_dataset(config, tmp_path / "work")
    assert len(built.store["train"]) == 5
    assert "val" not in built.store


def test_missing_columns_of_annotation_stay_ignored(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    stream = io.BytesIO()
    _picture(0).save(stream, "PNG")
    rows = [{"image": stream.getvalue(), "label": label, "split": "train"} for label in (0, None)]
    pd.DataFrame(rows).to_parquet(tmp_path / "in" / "a.parquet")
    config = DatasetConfig(source="tiny_imagenet", root=tmp_path / "in")
    store = build_dataset(config, tmp_path / "work").store
    assert store["train"].labels.tolist() == [0, -1]
    assert store["train"].semantic is None
    assert store["train"].instances is None
    assert store["train"].instances_of(0) == []


def test_images_of_many_channels_go_through(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "bands").mkdir()
    for i in range(6):
        np.save(tmp_path / "bands" / f"{i}.npy", rng.integers(0, 4096, (40, 50, 5), np.uint16))
    np.save(tmp_path / "bands" / "other.npy", rng.integers(0, 4096, (40, 50, 4), np.uint16))
    config = DatasetConfig(
        source="folder", root=tmp_path / "bands", channels=5, value_range=(0, 4095), val_fraction=0
    )
    built = build_dataset(config, tmp_path / "work")
    assert built.store["train"].images.shape == (6, 32, 32, 5)
    assert len(built.store.manifest["mean"]) == len(built.store.manifest["std"]) == 5
    pixels = built.store["train"].images.reshape(-1, 5) / 255
    np.testing.assert_allclose(built.store.manifest["mean"], pixels.mean(axis=0), atol=1e-6)
    assert built.contact_sheet.shape[2] == 3
    skipped = built.problems[built.problems["action"] == "skipped"]
    assert skipped["id"].tolist() == ["other.npy"]
    assert (built.index["channels"][:6] == 5).all()


def test_opencv_keeps_its_threads_for_others(tmp_path: Path) -> None:
    before = cv2.getNumThreads()
    build_dataset(DatasetConfig(scenes=ScenesConfig(num_train=9, num_val=2)), tmp_path / "work")
    assert cv2.getNumThreads() == before


def test_val_images_that_are_also_in_train_are_warned_of(tmp_path: Path, caplog) -> None:
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        path = tmp_path / "twice" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _picture(0 if name[-5] in "ac" else 1).save(path)
    build_dataset(DatasetConfig(source="folder", root=tmp_path / "twice"), tmp_path / "work")
    assert "1 val images are also in train" in caplog.text
    assert "train/a.png = val/c.png" in caplog.text


def test_what_a_stopped_build_wrote_counts_as_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images.npy").write_bytes(bytes(range(256)) * 4096)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    build._check_room(tmp_path, 2**20)
    with pytest.raises(ValueError, match="the store needs"):
        build._check_room(tmp_path, 10**9 + 2**20)
