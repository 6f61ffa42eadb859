import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import manifest
from contramask.data.tree import FileTree

REAL = Path(__file__).parents[4] / "shared" / "data" / "imagenette224-subset"


def _read(root: Path, **values: object):
    return manifest.read(DatasetConfig(source="manifest", root=root, **values))


@pytest.fixture
def table(draw) -> Path:
    root = draw("photos/1.jpg", "photos/2.jpg", "photos/3.jpg", "photos/4.jpg")
    lines = ["path,kind,part", "photos/1.jpg,cat,train", "photos/2.jpg,dog,train"]
    lines += ["photos/3.jpg,cat,test", "photos/4.jpg,,train", "photos/gone.jpg,dog,train"]
    (root / "table.csv").write_text("\n".join(lines))
    return root / "table.csv"


def test_paths_labels_and_splits(table: Path, build) -> None:
    source = _read(table, label_column="kind", split_column="part")
    assert source.classes == ["cat", "dog"]
    assert list(source.splits) == ["train", "train", "val", "train", "train"]
    assert [record.label for record in source.records] == [0, 1, 0, None, 1]
    assert source.records[0].image == table.parent / "photos" / "1.jpg"
    built = build(source="manifest", root=table, label_column="kind", split_column="part")
    assert built.problems["id"].tolist() == ["photos/gone.jpg"]
    assert "cannot be opened" in built.problems["problem"][0]


def test_numbers_as_labels_and_tabs(draw) -> None:
    root = draw("a.jpg", "b.jpg", "c.jpg")
    (root / "list.tsv").write_text("filename\tlabel\na.jpg\t7\nb.jpg\t\nc.jpg\t3\n")
    source = _read(root / "list.tsv", val_fraction=0)
    assert source.classes == ["3", "7"]
    assert [record.label for record in source.records] == [1, None, 0]
    assert _read(root, val_fraction=0).classes == ["3", "7"]


def test_bare_names_are_found_at_any_depth(draw) -> None:
    root = draw("images/deep/0001.jpg", "images/0002.jpg")
    (root / "train.csv").write_text("id,label\n0001,x\n0002,y\n")
    paths = [record.image for record in _read(root / "train.csv", val_fraction=0).records]
    assert paths == [root / "images" / "deep" / "0001.jpg", root / "images" / "0002.jpg"]
    inner = _read(root / "train.csv", val_fraction=0, images="images")
    assert inner.records[1].image == root / "images" / "0002.jpg"
    with pytest.raises(ValueError, match=r"dataset\.images nowhere is no folder"):
        _read(root / "train.csv", images="nowhere")


def test_json_lines_and_addresses(draw, build) -> None:
    root = draw("a.jpg", "b.jpg")
    rows = [{"image": "a.jpg"}, {"image": "b.jpg"}, {"image": "https://example.org/c.jpg"}]
    (root / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    built = build(source="manifest", root=root / "rows.jsonl", val_fraction=0)
    assert len(built.store["train"]) == 2
    assert "download the images first" in built.problems["problem"][0]


def test_parquet_with_bytes_in_shards(tmp_path: Path, picture) -> None:
    for name, labels in (("train-0", [5, 9, 5]), ("val-0", [9, 5, None])):
        rows = {"picture": [picture(seed=i) for i in range(3)], "label": labels}
        pd.DataFrame(rows).to_parquet(tmp_path / f"{name}.parquet")
    source = _read(tmp_path)
    assert list(source.splits) == ["train"] * 3 + ["val"] * 3
    assert [record.label for record in source.records] == [0, 1, 0, 1, 0, None]
    assert source.records[4].image() == picture(seed=1)
    assert source.records[4].id == "val-0/0/1"


def test_names_beside_numbers_and_in_metadata(tmp_path: Path, picture) -> None:
    cells = [{"bytes": picture(seed=i), "path": None} for i in range(3)]
    rows = {"image": cells, "label": [2, 0, 2]}
    named = pa.table({**rows, "label_name": ["crane", "crane", "crane"]})
    pq.write_table(named, tmp_path / "a.parquet")
    source = _read(tmp_path / "a.parquet", val_fraction=0)
    assert source.classes == ["crane (0)", "crane (1)"]
    assert [record.label for record in source.records] == [1, 0, 1]
    features = {"label": {"names": ["x", "y", "z"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(rows).replace_schema_metadata(metadata), tmp_path / "b.parquet")
    source = _read(tmp_path / "b.parquet", val_fraction=0)
    assert source.classes == ["x", "y", "z"]
    assert [record.label for record in source.records] == [2, 0, 2]


def test_parquet_with_paths(draw) -> None:
    root = draw("a.jpg", "b.jpg")
    frame = pd.DataFrame({"file_name": ["a.jpg", "b.jpg"], "split": ["train", "val"]})
    frame.to_parquet(root / "index.parquet")
    source = _read(root)
    assert [record.image for record in source.records] == [root / "a.jpg", root / "b.jpg"]


def test_misfits_are_explained(draw, tmp_path: Path, picture) -> None:
    root = draw("a.jpg")
    with pytest.raises(ValueError, match="is no table; give a csv"):
        _read(root)
    (root / "a.csv").write_text("colour,weight\n1,2\n")
    with pytest.raises(ValueError, match=r"columns colour, weight, .*dataset\.image_column"):
        _read(root / "a.csv")
    with pytest.raises(ValueError, match=r"dataset\.image_column shape is no column"):
        _read(root / "a.csv", image_column="shape")
    (root / "a.csv").write_text("path,score\na.jpg,0.25\n")
    with pytest.raises(ValueError, match="measurements and no classes"):
        _read(root / "a.csv", label_column="score")
    pd.DataFrame({"image": [picture()], "label": [[1, 2]]}).to_parquet(root / "b.parquet")
    with pytest.raises(ValueError, match="one class an image is needed"):
        _read(root / "b.parquet")
    (root / "b.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        _read(root / "b.parquet")
    (root / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        _read(root / "a.csv")


def test_recognised_only_when_its_images_are_there(table: Path) -> None:
    found = manifest.recognise(FileTree(table.parent))
    assert (found.source, found.keys) == ("manifest", {"root": str(table)})
    table.write_text("id,value\n77,2\n")
    assert manifest.recognise(FileTree(table.parent)) is None
    table.write_text("path\nnowhere.jpg\n")
    assert manifest.recognise(FileTree(table.parent)) is None


@pytest.mark.skipif(not REAL.is_dir(), reason="Imagenette is not on this machine")
def test_real_imagenette(build) -> None:
    built = build(source="manifest", root=REAL, limit=20, val_limit=10, image_size=32)
    assert built.store.manifest["classes"][0] == "tench"
    assert sorted(built.store["train"].labels) == sorted([*range(10), *range(10)])
    assert built.problems.empty
