"""The JPEG store: the raw store's pictures within what JPEG loses, whatever happens to a build."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from contramask.boxes.generate import BoxConfig, generate_boxes
from contramask.data import build, pixel_files
from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.jpeg import BLOB, JpegImages, encode
from contramask.data.pixel_files import with_kind
from contramask.data.scenes import photographs
from contramask.data.store import Store
from contramask.typed import ConfigError, parse

SCENES = DatasetConfig(scenes=ScenesConfig(num_train=30, num_val=10), store="jpeg", workers=2)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(10 * np.log10(255**2 / ((one.astype(float) - other) ** 2).mean()))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 cut-outs of photographs, lying, standing and square."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        photo = photographs()[number % len(photographs())]
        height, width = ((300, 400), (400, 250), (280, 280))[number % 3]
        Image.fromarray(photo[:height, 10 * number : 10 * number + width]).save(
            folder / f"{number:02d}.png"
        )
    return folder


def config_of(pictures: Path, **given: object) -> DatasetConfig:
    values = {"source": "folder", "root": pictures, "image_size": 96, "store": "jpeg", "workers": 2}
    return DatasetConfig(**{**values, **given})


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("size", [96, (64, 112)])
@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_come_back_as_the_raw_store_has_them(
    tmp_path: Path, pictures: Path, fit: str, size: object, channels: int
) -> None:
    config = config_of(pictures, fit=fit, image_size=size, channels=channels)
    found = build_dataset(config, tmp_path / "jpeg").store
    raw = build_dataset(replace(config, store="raw"), tmp_path / "raw").store
    assert found["train"].ids == raw["train"].ids
    assert found["train"].images.shape == raw["train"].images.shape
    for row in range(len(raw["train"])):
        assert psnr(found["train"][row], raw["train"][row]) > 30
    same = ("mean", "std", "image_size", "channels", "splits")
    assert {key: found.manifest[key] for key in same} == {key: raw.manifest[key] for key in same}
    assert found.data_hash != raw.data_hash
    assert "pixels" not in raw.manifest


def test_whole_images_are_kept(tmp_path: Path, pictures: Path) -> None:
    train = build_dataset(config_of(pictures, val_fraction=0.0), tmp_path).store["train"]
    for row, name in enumerate(train.ids):
        with Image.open(pictures / name) as image:
            given = image.size
        start, stop = train.images.offsets[row : row + 2]
        (tmp_path / "one.jpg").write_bytes(train.images.blob[start:stop].tobytes())
        with Image.open(tmp_path / "one.jpg") as image:
            assert min(image.size) == 96
            assert image.size[0] / image.size[1] == pytest.approx(given[0] / given[1], abs=0.01)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("store")
    build_dataset(SCENES, base / "work").store.write(base / "store")
    return base / "store"


def test_annotations_are_those_of_the_raw_store(written: Path, tmp_path: Path) -> None:
    raw = build_dataset(replace(SCENES, store="raw"), tmp_path).store["train"]
    train = Store.read(written)["train"]
    np.testing.assert_array_equal(train.semantic, raw.semantic)
    np.testing.assert_array_equal(train.labels, raw.labels)
    pd.testing.assert_frame_equal(train.instances, raw.instances)


def test_images_are_indexed_as_an_array_is(written: Path) -> None:
    images = Store.read(written)["train"].images
    one_thread = JpegImages(images.folder, images.shape, images.fit, threads=1)
    whole = images[:]
    assert (whole.shape, whole.dtype, images.ndim) == ((30, 32, 32, 3), np.uint8, 4)
    np.testing.assert_array_equal(whole, one_thread[np.arange(30)])
    np.testing.assert_array_equal(images[-1], whole[29])
    np.testing.assert_array_equal(images[3:20:4], whole[3:20:4])
    np.testing.assert_array_equal(images[[5, 2, 2]], whole[[5, 2, 2]])
    assert images[[]].shape == (0, 32, 32, 3)
    with pytest.raises(IndexError):
        images[30]


def test_batches_come_in_the_asked_order(written: Path) -> None:
    train = Store.read(written)["train"]
    batch = train.__getitems__([5, 2, 2])
    assert type(batch) is np.ndarray
    np.testing.assert_array_equal(batch[1], train[2])


def test_other_processes_decode_with_one_thread(written: Path) -> None:
    sent = copy.deepcopy(Store.read(written)["train"])
    assert sent.images.threads == 1
    np.testing.assert_array_equal(sent[4], Store.read(written)["train"][4])


def test_boxes_are_made_from_it(written: Path) -> None:
    boxes = generate_boxes(Store.read(written), BoxConfig(method="spectral_residual"))
    assert boxes.training_boxes().shape == (30, 4)


def flip_a_byte(path: Path, place: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


def test_a_flipped_byte_is_noticed(written: Path) -> None:
    Store.read(written).verify()
    blob = written / "val" / BLOB
    for place in (0, blob.stat().st_size // 2, blob.stat().st_size - 1):
        flip_a_byte(blob, place)
        with pytest.raises(ValueError, match="was changed after it was built"):
            Store.read(written).verify()
        flip_a_byte(blob, place)
    flip_a_byte(written / "val" / "offsets.npy", 140)
    with pytest.raises(ValueError, match="was changed after it was built"):
        Store.read(written).verify()
    flip_a_byte(written / "val" / "offsets.npy", 140)
    Store.read(written).verify()


def test_damage_is_named(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(written, folder)
    blob = folder / "train" / BLOB
    content = blob.read_bytes()
    blob.write_bytes(content[:-5])
    with pytest.raises(ValueError, match=r"cut off.*run the dataset stage again"):
        Store.read(folder)
    blob.write_bytes(bytes(len(content)))
    with pytest.raises(ValueError, match=r"image 7 in .* is damaged"):
        Store.read(folder)["train"][7]
    blob.unlink()
    with pytest.raises(ValueError, match="missing files or damaged"):
        Store.read(folder)


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_a_killed_build_goes_on_and_ends_bit_for_bit_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: Callable[[DatasetConfig, Path, int], None],
) -> None:
    expected = build_dataset(SCENES, tmp_path / "whole").store
    config = replace(SCENES, workers=1)
    kill_at(config, tmp_path / "killed", 20)
    kill_at(config, tmp_path / "killed", 10)
    real, seen = build.prepare, list[str]()
    monkeypatch.setattr(
        build, "prepare", lambda *given: (seen.append(given[0].id), real(*given))[1]
    )
    found = build_dataset(SCENES, tmp_path / "killed").store
    assert len(seen) < 30
    assert files(found.folder) == files(expected.folder)


def test_images_that_were_altered_since_are_made_anew(
    tmp_path: Path, kill_at: Callable[[DatasetConfig, Path, int], None]
) -> None:
    expected = build_dataset(SCENES, tmp_path / "whole").store
    for spoil in (
        lambda p: flip_a_byte(p, 3000),
        lambda p: p.unlink(),
        lambda p: p.write_bytes(b""),
    ):
        work = tmp_path / "killed"
        kill_at(replace(SCENES, workers=1), work, 25)
        spoil(work / "store" / "train" / BLOB)
        assert files(build_dataset(SCENES, work).store.folder) == files(expected.folder)


def test_another_number_of_channels_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"JPEG keeps 3 channels or 1, and dataset\.channels is 4"
    ):
        parse(DatasetConfig, {"channels": 4, "store": "jpeg"}, "dataset")
    assert parse(DatasetConfig, {"channels": 4, "store": "auto"}, "dataset").store == "auto"


def test_auto_follows_the_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    auto = replace(SCENES, store="auto", image_size=(100, 100))
    memory = type("Memory", (), {"total": 40_000_000})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert with_kind(auto, 600).store == "raw"
    assert with_kind(auto, 700).store == "jpeg"  # 21 MB of 40
    assert "store auto: jpeg" in caplog.text
    assert with_kind(replace(auto, channels=5), 700).store == "raw"
    assert with_kind(SCENES, 1) is SCENES
    assert pixel_files.MEMORY_SHARE == 0.5


def test_jpeg_of_photographs_is_small() -> None:
    photo = photographs()[0][:256, :256]
    assert len(encode(photo)) < photo.nbytes / 4
