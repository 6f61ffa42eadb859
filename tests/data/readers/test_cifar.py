from pathlib import Path

import numpy as np
import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import cifar
from contramask.data.tree import FileTree


def _write(root: Path, labels: int, train: list[str], test: str, names: str, count: int) -> None:
    random = np.random.default_rng(0)
    root.mkdir(exist_ok=True)
    for name in [*train, test]:
        records = random.integers(0, 256, (6, labels + 3072), dtype=np.uint8)
        records[:, :labels] = np.arange(6)[:, None] % count
        records.tofile(root / name)
    (root / names).write_text("\n".join(f"kind{i}" for i in range(count)) + "\n\n")


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    batches = [f"data_batch_{i}.bin" for i in range(1, 6)]
    _write(tmp_path / "ten", 1, batches, "test_batch.bin", "batches.meta.txt", 3)
    return tmp_path / "ten"


def test_pixels_labels_and_splits(ten: Path) -> None:
    source = cifar.read(DatasetConfig(source="cifar10", root=ten))
    assert (len(source.records), source.splits.count("train"), source.splits.count("val")) == (
        *(36, 30),
        6,
    )
    assert source.classes == ["kind0", "kind1", "kind2"]
    record = source.records[7]
    assert (record.id, record.label, record.split) == ("data_batch_2.bin/00001", 1, "train")
    raw = np.fromfile(ten / "data_batch_2.bin", np.uint8).reshape(6, 3073)[1, 1:]
    assert record.image.shape == (32, 32, 3)
    assert np.array_equal(record.image[:, :, 0].ravel(), raw[:1024])  # the red plane comes first
    assert source.records[35].split == "val"


def test_limits_keep_classes_balanced(ten: Path) -> None:
    config = DatasetConfig(source="cifar10", root=ten, limit=6, val_limit=0)
    source = cifar.read(config)
    assert sorted(r.label for r in source.records) == [0, 0, 1, 1, 2, 2]


def test_a_store_is_built(ten: Path, build) -> None:
    built = build(source="cifar10", root=ten, image_size=32)
    assert built.store.manifest["splits"] == {"train": 30, "val": 6}
    record = cifar.read(DatasetConfig(source="cifar10", root=ten)).records[0]
    assert np.array_equal(built.store["train"][0], record.image)


def test_of_two_labels_the_fine_one_is_taken(tmp_path: Path) -> None:
    _write(tmp_path, 2, ["train.bin"], "test.bin", "fine_label_names.txt", 4)
    raw = np.fromfile(tmp_path / "train.bin", np.uint8).reshape(6, 3074)
    raw[:, 0] = 77
    raw.tofile(tmp_path / "train.bin")
    source = cifar.read(DatasetConfig(source="cifar100", root=tmp_path))
    assert [source.records[i].label for i in range(6)] == [0, 1, 2, 3, 0, 1]
    assert cifar.recognise(FileTree(tmp_path)).source == "cifar100"


def test_its_files_are_recognised(ten: Path, tmp_path: Path) -> None:
    assert cifar.recognise(FileTree(ten)).source == "cifar10"
    assert cifar.recognise(FileTree(tmp_path)) is None


def test_missing_cut_off_and_mislabelled_files_are_named(ten: Path) -> None:
    config = DatasetConfig(source="cifar10", root=ten)
    (ten / "batches.meta.txt").write_text("a b")
    with pytest.raises(ValueError, match="label 2 and 2 class names"):
        cifar.read(config)
    with (ten / "test_batch.bin").open("ab") as stream:
        stream.truncate(5000)
    with pytest.raises(ValueError, match=r"test_batch\.bin has 5,000 bytes"):
        cifar.read(config)
    (ten / "data_batch_3.bin").unlink()
    with pytest.raises(ValueError, match=r"lacks data_batch_3\.bin; give the folder"):
        cifar.read(config)
