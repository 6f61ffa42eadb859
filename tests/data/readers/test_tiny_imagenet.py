import io
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig
from contramask.data.readers import tiny_imagenet

REAL = Path(__file__).parents[4] / "shared" / "data" / "tiny-imagenet-200"


def _png(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (level, level, level)).save(stream, "PNG")
    return stream.getvalue()


def _rows(split: str, count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": [_png(i) for i in range(count)],
            "label": [i % 5 for i in range(count)],
            "label_name": [f"class {i % 5}" for i in range(count)],
            "split": split,
            "file_name": [f"{i}.png" for i in range(count)],
        }
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    rows = _rows("train", 60)
    rows[:30].to_parquet(folder / "train-0.parquet", row_group_size=7)
    rows[30:].to_parquet(folder / "train-1.parquet", row_group_size=7)
    _rows("val", 20).to_parquet(folder / "val.parquet")
    return folder


def _read(root: Path, **options: object):
    return tiny_imagenet.read(DatasetConfig(source="tiny_imagenet", root=root, **options))


def test_rows_of_all_shards_in_order(shards: Path) -> None:
    source = _read(shards)
    assert list(source.splits) == ["train"] * 60 + ["val"] * 20
    assert source.classes == [f"class {i}" for i in range(5)]
    assert source.instance_classes == []
    for row in (0, 6, 7, 29, 30, 59, 3):
        record = source.records[row]
        assert (record.id, record.label, record.image()) == (f"train/{row}.png", row % 5, _png(row))


def test_limit_keeps_classes_balanced(shards: Path) -> None:
    source = _read(shards, limit=40, val_limit=5)
    labels = [record.label for record in source.records]
    assert Counter(labels[:40]) == dict.fromkeys(range(5), 8)
    assert Counter(labels[40:]) == dict.fromkeys(range(5), 1)
    assert _read(shards, val_limit=0).splits.count("val") == 0


def test_other_layouts_of_the_same_columns(tmp_path: Path) -> None:
    """Images as a struct with bytes, no split column, labels with gaps, no names."""
    cells = [{"bytes": _png(i), "path": f"{i}.png"} for i in range(4)]
    table = pa.table({"image": cells, "label": [10, 30, 10, 30]})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 2), tmp_path / "validation-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 1), tmp_path / "test-00000-of-00001.parquet")
    source = _read(tmp_path)
    assert list(source.splits) == ["train"] * 4 + ["val"] * 2
    assert source.classes == ["10", "30"]
    assert [record.label for record in source.records] == [0, 1, 0, 1, 0, 1]
    assert source.records[3].image() == _png(3)
    assert source.facts["outside_splits"] == 1


def test_without_any_split_it_is_made_by_name(tmp_path: Path) -> None:
    pd.DataFrame({"image": [_png(i) for i in range(50)]}).to_parquet(tmp_path / "pictures.parquet")
    source = _read(tmp_path, val_fraction=0.2)
    assert source.classes == []
    assert 3 <= list(source.splits).count("val") <= 20
    assert len({record.id for record in source.records}) == 50


def test_equal_names_of_two_classes_stay_apart(tmp_path: Path) -> None:
    rows = _rows("train", 10).assign(label_name=["crane", "crane", "cat", "dog", "emu"] * 2)
    rows.to_parquet(tmp_path / "a.parquet")
    assert _read(tmp_path).classes == ["crane (0)", "crane (1)", "cat", "dog", "emu"]


def test_damaged_cells_are_skipped_by_name(shards: Path, tmp_path: Path) -> None:
    rows = _rows("train", 10)
    rows["image"] = [b"no image", None, *rows["image"][2:]]
    rows.to_parquet(shards / "train-0.parquet")
    (shards / "train-1.parquet").unlink()
    config = DatasetConfig(source="tiny_imagenet", root=shards)
    built = build_dataset(config, tmp_path / "work")
    assert built.problems["id"].tolist() == ["train/0.png", "train/1.png"]
    assert len(built.store["train"]) == 8
    assert (built.store["train"].images[0] == 2).all()


def test_unusable_roots_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs dataset\.root"):
        tiny_imagenet.read(DatasetConfig(source="tiny_imagenet"))
    with pytest.raises(ValueError, match=r"does not exist"):
        _read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no parquet file"):
        _read(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be used"):
        _read(tmp_path)
    pd.DataFrame({"picture": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"columns picture, and none named image"):
        _read(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="Tiny-ImageNet shards are not on this machine")
def test_real_shards(tmp_path: Path) -> None:
    config = DatasetConfig(
        source="tiny_imagenet", root=REAL, image_size=64, limit=400, val_limit=200
    )
    built = build_dataset(config, tmp_path / "work")
    train = built.store["train"]
    assert np.bincount(train.labels).tolist() == [2] * 200
    assert np.bincount(built.store["val"].labels).tolist() == [1] * 200
    assert built.problems.empty
    category, box, _, _ = train.instances_of(0)[0]
    assert (category, box) == (0, (0, 10, 64, 59))
    assert built.card["modes"]["L"] > 0
