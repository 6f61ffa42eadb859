"""Tiny-ImageNet-200: as parquet shards of encoded images, or unpacked as its authors ship it.

Shards may be any of the same columns: `image` (encoded bytes, or a struct with a `bytes` field),
and, where present, `label` (integer), `label_name`, `split`, `file_name`, and a box
`xmin ymin xmax ymax` in pixels, whose last pixel belongs to the box. Without a `split` column the
shard's name says it (train-*, val-*).
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from contramask.data.config import DatasetConfig
from contramask.data.readers import parquet, tiny_imagenet_files
from contramask.data.readers.layout import Layout
from contramask.data.record import SPLITS, Instance, LazyRecords, Record, Source, Split
from contramask.data.split import split_by_class, split_by_name
from contramask.data.tree import FileTree, given_root

_BOX = ["xmin", "ymin", "xmax", "ymax"]
_OPTIONAL = ["label", "label_name", "split", "file_name", *_BOX]
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val"}
_WANTED = "give a folder of parquet files with the columns image, label, split (dataset.root)"


def read(config: DatasetConfig) -> Source:
    """List the images under `config.root`; raises `ValueError` where they do not fit.

    `limit` and `val_limit` keep the first rows of a split of shards, which are balanced because
    the rows of such sets take turns through the classes.
    """
    root = given_root(config.root, "tiny_imagenet", _WANTED)
    if tiny_imagenet_files.is_there(root):
        return tiny_imagenet_files.read(config, root)
    files = _shards(root)
    table = pd.concat([_columns(file, i) for i, file in enumerate(files)], ignore_index=True)
    table["split"] = _splits(table, config)
    outside = int(table["split"].isna().sum())
    table, classes = _with_classes(table)
    parts = []
    for split, limit in zip(SPLITS, (config.limit, config.val_limit), strict=True):
        own = table[table["split"] == split]
        parts.append(own if limit is None else own.head(limit))
    chosen = pd.concat(parts, ignore_index=True)
    if chosen.empty:
        raise ValueError(f"dataset.root {root}: no row of its parquet files is in train or val")
    chosen["id"] = _ids(chosen, files)
    has_boxes = bool(classes) and set(_BOX) <= set(chosen)
    return Source(
        name=root.name,
        records=_records(chosen, files),
        splits=list(chosen["split"]),
        classes=classes,
        instance_classes=classes if has_boxes else [],
        facts={"shards": len(files), "outside_splits": outside, "instance_masks": False},
    )


def recognise(tree: FileTree) -> Layout | None:
    """Its own files, or parquet shards with a box for each image."""
    if tiny_imagenet_files.is_there(tree.root):
        return Layout("tiny_imagenet", "wnids.txt beside train and val folders")
    shards = [name for name in tree.loose if name.endswith(".parquet")]
    try:
        columns = set(parquet.column_names(tree.root / shards[0])) if shards else set()
    except ValueError:
        return None
    if not {"image", "label", *_BOX} <= columns:
        return None
    return Layout("tiny_imagenet", f"{len(shards)} parquet shards with a box for each image")


def _records(chosen: pd.DataFrame, files: Sequence[Path]) -> LazyRecords:
    images = parquet.ParquetImages(files)
    columns = {name: chosen[name].to_numpy() for name in chosen}

    def make(i: int) -> Record:
        row = {name: column[i] for name, column in columns.items()}
        label, shard = int(row["label"]), int(row["shard"])
        return Record(
            id=row["id"],
            image=partial(images.fetch, shard, int(row["group"]), int(row["row"])),
            split=row["split"],
            path=files[shard].name,
            label=label if label >= 0 else None,
            instances=_instances(row, label),
        )

    return LazyRecords(len(chosen), make)


def _instances(row: dict[str, Any], label: int) -> tuple[Instance, ...]:
    corners = [float(row[name]) for name in _BOX if name in row]
    if label < 0 or len(corners) < len(_BOX) or not np.isfinite(corners).all():
        return ()
    x0, y0, x1, y1 = corners
    return (Instance(label, (x0, y0, x1 + 1, y1 + 1)),)


def _shards(root: Path) -> list[Path]:
    if not root.is_dir():
        raise ValueError(f"dataset.root {root} is a file; {_WANTED}")
    files = sorted(file for file in root.rglob("*.parquet") if not file.name.startswith("."))
    if not files:
        raise ValueError(f"dataset.root {root} holds no parquet file; {_WANTED}")
    return files


def _columns(file: Path, shard: int) -> pd.DataFrame:
    """Everything but the images of one shard, and where each image lies."""
    try:
        names = parquet.column_names(file)
        if "image" not in names:
            raise ValueError(f"it has the columns {', '.join(names)}, and none named image")
        there = [name for name in _OPTIONAL if name in names]
        table = parquet.read_columns(file, shard, there)
    except ValueError as error:
        raise ValueError(f"{file} cannot be used as a shard of images: {error}") from error
    if "split" not in table:
        table["split"] = file.stem.split("-")[0]
    return table


def _splits(table: pd.DataFrame, config: DatasetConfig) -> pd.Series:
    """train, val or missing (test rows, for one); by row name where nothing is called train."""
    splits = table["split"].astype(str).str.lower().map(_SPLITS)
    if (splits == "train").any():
        return splits
    names = [f"{row.shard}/{row.group}/{row.row}" for row in table.itertuples()]
    if "label" in table and table["label"].notna().any():
        drawn = split_by_class(names, table["label"].tolist(), config.val_fraction)
    else:
        drawn = split_by_name(names, config.val_fraction)
    return pd.Series(drawn, index=table.index)


def _with_classes(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Labels as positions in the list of class names, -1 where there is none."""
    if "label" not in table or table["label"].isna().all():
        return table.assign(label=-1), []
    values = sorted(table["label"].dropna().unique())
    position = {value: i for i, value in enumerate(values)}
    names = [str(value) for value in values]
    if "label_name" in table:
        named = table.dropna(subset=["label"]).drop_duplicates("label").set_index("label")
        names = [str(named.loc[value, "label_name"]) for value in values]
        # Two meanings of one word (crane) must stay two classes in every table.
        twice = {name for name, count in Counter(names).items() if count > 1}
        names = [f"{n} ({v})" if n in twice else n for n, v in zip(names, values, strict=True)]
    return table.assign(label=table["label"].map(position).fillna(-1).astype(np.int64)), names


def _ids(table: pd.DataFrame, files: Sequence[Path]) -> list[str]:
    """The rows' file names where they are unique inside the split, else shard, group and row."""
    if "file_name" in table:
        named = [f"{row.split}/{row.file_name}" for row in table.itertuples()]
        if len(set(named)) == len(named):
            return named
    return [f"{files[row.shard].stem}/{row.group}/{row.row}" for row in table.itertuples()]
