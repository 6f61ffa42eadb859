import copy
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.readers import digit_scenes
from contramask.data.store import Store

CONFIG = DatasetConfig(scenes=ScenesConfig(num_train=30, num_val=10))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("store")
    build_dataset(CONFIG, base / "work").store.write(base / "store")
    return base / "store"


def test_round_trip_keeps_every_annotation(written: Path) -> None:
    store = Store.read(written)
    records = digit_scenes.read(CONFIG).records
    train = store["train"]
    assert (len(train), len(store["val"]), store.num_classes) == (30, 10, 10)
    assert isinstance(train.images, np.memmap)
    for row, record in enumerate(records[:30]):
        np.testing.assert_array_equal(train.images[row], record.image)
        np.testing.assert_array_equal(train.semantic[row], record.semantic)
        assert (train.labels[row], train.ids[row]) == (record.label, record.id)
        found = train.instances_of(row)
        assert len(found) == len(record.instances)
        for (category, box, mask, iscrowd), instance in zip(found, record.instances, strict=True):
            assert (category, box, iscrowd) == (instance.category, instance.box, False)
            np.testing.assert_array_equal(mask, instance.mask)


def test_batches_come_in_the_asked_order(written: Path) -> None:
    train = Store.read(written)["train"]
    batch = train.__getitems__([5, 2, 2])
    assert batch.shape == (3, 32, 32, 3)
    assert type(batch) is np.ndarray
    np.testing.assert_array_equal(batch[1], train[2])
    np.testing.assert_array_equal(batch[0], train.images[5])


def test_facts(written: Path) -> None:
    store = Store.read(written)
    assert store.has_labels
    assert store.has_semantic
    assert store.has_instances
    assert store.has_instance_masks
    assert "val" in store
    assert "test" not in store
    with pytest.raises(ValueError, match=r"no split 'test'; it has train, val"):
        store["test"]


def test_other_processes_get_the_folder_not_the_pixels(written: Path) -> None:
    train = Store.read(written)["train"]
    sent = copy.deepcopy(train)  # goes the way a spawned loader process gets it
    assert isinstance(sent.images, np.memmap)
    np.testing.assert_array_equal(sent.images, train.images)
    assert train.__reduce__()[1] == (train.folder, "train", train.manifest, 1)


def test_draft_is_moved_then_copied(tmp_path: Path) -> None:
    store = build_dataset(CONFIG, tmp_path / "work").store
    target = tmp_path / "deep" / "store"
    target.mkdir(parents=True)
    (target / "old.txt").write_text("old")
    store.write(target)
    assert not (tmp_path / "work" / "store").exists()
    assert sorted(p.name for p in target.iterdir()) == ["manifest.json", "train", "val"]
    assert [p.name for p in target.parent.iterdir()] == ["store"]
    store.write(target)
    store.write(tmp_path / "copy")
    assert (
        Store.read(tmp_path / "copy").data_hash == Store.read(target).data_hash == store.data_hash
    )
    assert len(store["train"].ids) == 30


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    "name",
    [
        *("manifest.json", "train/images.npy", "train/labels.npy", "val/semantic.npy"),
        "train/instances.parquet",
    ],
)
@pytest.mark.parametrize("damage", [Path.unlink, _truncate])
def test_missing_or_damaged_part_is_named(written: Path, tmp_path: Path, name, damage) -> None:
    folder = tmp_path / "store"
    shutil.copytree(written, folder)
    damage(folder / name)
    with pytest.raises(ValueError, match=name):
        Store.read(folder)


def test_damaged_tables_are_named_when_read(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(written, folder)
    (folder / "train" / "ids.json").write_text("[]")
    with pytest.raises(ValueError, match=r"ids\.json does not list 30"):
        _ = Store.read(folder)["train"].ids
    (folder / "train" / "instances.parquet").unlink()
    with pytest.raises(ValueError, match=r"instances\.parquet is missing"):
        Store.read(folder)


def test_arrays_that_contradict_the_manifest_are_refused(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(written, folder)
    np.save(folder / "train" / "images.npy", np.zeros((30, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"images\.npy holds uint8 \(30, 16, 16, 3\)"):
        Store.read(folder)


@pytest.mark.parametrize(("key", "value"), [("schema", 99), ("mean", None)])
def test_manifest_of_another_version_is_refused(written: Path, tmp_path: Path, key, value) -> None:
    folder = tmp_path / "store"
    shutil.copytree(written, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest = (
        {**manifest, key: value} if value else {k: v for k, v in manifest.items() if k != key}
    )
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=key):
        Store.read(folder)


def test_box_only_source_has_filled_masks(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "PNG")
    box = {"xmin": 0, "ymin": 10, "xmax": 31, "ymax": 63}
    row = {"image": stream.getvalue(), "label": 0, "split": "train", **box}
    (tmp_path / "in").mkdir()
    pd.DataFrame([row]).to_parquet(tmp_path / "in" / "a.parquet")
    config = DatasetConfig(source="tiny_imagenet", root=tmp_path / "in")
    store = build_dataset(config, tmp_path / "work").store
    category, found, mask, iscrowd = store["train"].instances_of(0)[0]
    assert (category, found, iscrowd) == (0, (0, 5, 16, 32), False)
    assert mask.sum() == 16 * 27
    assert store.has_instances
    assert not store.has_instance_masks
