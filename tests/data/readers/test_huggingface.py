import json
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import huggingface


def _read(**values: object):
    return huggingface.read(DatasetConfig(source="huggingface", **values))


def test_parquet_files_as_the_hub_holds_them(tmp_path: Path, picture) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for i, name in enumerate(("train-00000-of-00001", "validation-00000-of-00001")):
        cells = [{"bytes": picture(seed=3 * i + row), "path": "x.jpg"} for row in range(3)]
        table = pa.table({"image": cells, "label": [1, 0, 1]}).replace_schema_metadata(metadata)
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "data" / f"{name}.parquet")
    source = _read(root=tmp_path)
    assert list(source.splits) == ["train"] * 3 + ["val"] * 3
    assert source.classes == ["cat", "dog"]
    assert source.records[5].image() == picture(seed=5)


def test_misfits_are_explained(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"needs dataset\.root.* dataset\.dataset_id"):
        _read()
    with pytest.raises(ValueError, match="holds no parquet file"):
        _read(root=tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"`datasets`, which is not installed: `uv sync --extra"):
        _read(dataset_id="someone/birds")


class _Feature:
    names = ("cat", "dog")


class _Part(list):
    """What a split of the `datasets` library offers, as far as it is used."""

    @property
    def features(self) -> dict[str, object]:
        return {"image": None, "label": _Feature()}

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def cast_column(self, name: str, feature: object) -> "_Part":
        assert feature == "encoded"
        return self

    def select_columns(self, names: list[str]) -> "_Part":
        return _Part({name: row[name] for name in names} for row in self)


def test_a_set_of_the_hub(monkeypatch, tmp_path: Path, picture, build) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(picture(seed=1))
    train = _Part(
        [
            {"image": {"bytes": picture(), "path": None}, "label": 1},
            {"image": {"bytes": None, "path": str(path)}, "label": 0},
            {"image": None, "label": -1},
        ]
    )
    library = types.ModuleType("datasets")
    library.Image = lambda decode: "raw" if decode else "encoded"
    library.load_dataset = lambda name: {"train": train, "test": _Part(train[:1])}
    monkeypatch.setitem(sys.modules, "datasets", library)
    source = _read(dataset_id="someone/birds")
    assert (source.name, source.classes) == ("someone-birds", ["cat", "dog"])
    assert list(source.splits) == ["train", "train", "train", "val"]
    assert [record.label for record in source.records] == [1, 0, None, 1]
    built = build(source="huggingface", dataset_id="someone/birds")
    assert built.problems["problem"].tolist() == ["is empty (0 bytes)"]
    library.load_dataset = lambda name: (_ for _ in ()).throw(ConnectionError("no network"))
    with pytest.raises(ValueError, match=r"cannot be loaded \(ConnectionError: no network\)"):
        _read(dataset_id="someone/birds")
