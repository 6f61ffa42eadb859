"""Parquet shards of encoded images: Tiny-ImageNet-200 and any other folder of the same columns.

Columns: `image` (encoded bytes, or a struct with a `bytes` field), and, where present, `label`
(integer), `label_name`, `split`, `file_name`, and a box `xmin ymin xmax ymax` in pixels, whose last
pixel belongs to the box. Without a `split` column the shard's name says it (train-*, val-*).
"""

import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from contramask.data.config import DatasetConfig
from contramask.data.record import SPLITS, Instance, Record, Source, Split
from contramask.data.split import split_by_name

_BOX = ["xmin", "ymin", "xmax", "ymax"]
_OPTIONAL = ["label", "label_name", "split", "file_name", *_BOX]
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val"}
_GROUPS_KEPT = 4  # row groups held at once: as many as threads are likely to straddle


class _Shards:
    """Reads single encoded images out of parquet files, a row group at a time, for all threads."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = files
        self._cache: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def image(self, shard: int, group: int, row: int) -> bytes:
        """The encoded bytes of a row of a row group; empty when the cell is null."""
        with self._lock:
            key = (shard, group)
            if key not in self._cache:
                with pq.ParquetFile(self.files[shard]) as file:
                    self._cache[key] = file.read_row_group(group, columns=["image"])["image"]
                if len(self._cache) > _GROUPS_KEPT:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            cell = self._cache[key][row].as_py()
        found = cell.get("bytes") if isinstance(cell, dict) else cell
        return bytes(found or b"")


class _Rows(Sequence[Record]):
    """The chosen rows of the shards as records, their images read when asked for."""

    def __init__(self, shards: _Shards, table: pd.DataFrame) -> None:
        self.shards, self.table = shards, table
        self.columns = {name: table[name].to_numpy() for name in table}

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = {name: column[index] for name, column in self.columns.items()}
        label = int(row["label"])
        return Record(
            id=row["id"],
            image=self.shards.image(int(row["shard"]), int(row["group"]), int(row["row"])),
            split=row["split"],
            path=self.shards.files[int(row["shard"])].name,
            label=label if label >= 0 else None,
            instances=_instances(row, label),
        )


def _instances(row: dict[str, Any], label: int) -> tuple[Instance, ...]:
    corners = [float(row[name]) for name in _BOX if name in row]
    if label < 0 or len(corners) < len(_BOX) or not np.isfinite(corners).all():
        return ()
    x0, y0, x1, y1 = corners
    return (Instance(label, (x0, y0, x1 + 1, y1 + 1)),)


def read(config: DatasetConfig) -> Source:
    """List the rows of the shards under `config.root`; raises `ValueError` where they do not fit.

    `limit` and `val_limit` keep the first rows of a split, which are balanced because the rows of
    such sets take turns through the classes.
    """
    root, files = _checked_files(config.root)
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
        records=_Rows(_Shards(files), chosen),
        splits=list(chosen["split"]),
        classes=classes,
        instance_classes=classes if has_boxes else [],
        facts={"shards": len(files), "outside_splits": outside, "instance_masks": False},
    )


def _checked_files(given: Path | None) -> tuple[Path, list[Path]]:
    wanted = "give a folder of parquet files with the columns image, label, split (dataset.root)"
    if given is None:
        raise ValueError(f"dataset.source tiny_imagenet needs dataset.root; {wanted}")
    root = given.expanduser().resolve()
    if not root.is_dir():
        state = "is a file" if root.exists() else f"does not exist (seen from {Path.cwd()})"
        raise ValueError(f"dataset.root {root} {state}; {wanted}")
    files = sorted(file for file in root.rglob("*.parquet") if not file.name.startswith("."))
    if not files:
        raise ValueError(f"dataset.root {root} holds no parquet file; {wanted}")
    return root, files


def _columns(file: Path, shard: int) -> pd.DataFrame:
    """Everything but the images of one shard, and where each image lies."""
    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            if "image" not in names:
                raise ValueError(f"it has the columns {', '.join(names)}, and none named image")
            there = [name for name in _OPTIONAL if name in names]
            table: pd.DataFrame = parquet.read(columns=there).to_pandas()
            groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ValueError(f"{file} cannot be used as a shard of images: {error}") from error
    table = table.reset_index(drop=True).reindex(range(sum(groups)))
    table["shard"] = shard
    table["group"] = np.repeat(np.arange(len(groups)), groups)
    table["row"] = np.concatenate([np.arange(count) for count in groups]) if groups else []
    if "split" not in table:
        table["split"] = file.stem.split("-")[0]
    return table


def _splits(table: pd.DataFrame, config: DatasetConfig) -> pd.Series:
    """train, val or missing (test rows, for one); by row name where nothing is called train."""
    splits = table["split"].astype(str).str.lower().map(_SPLITS)
    if (splits == "train").any():
        return splits
    names = [f"{row.shard}/{row.group}/{row.row}" for row in table.itertuples()]
    return pd.Series(split_by_name(names, config.val_fraction), index=table.index)


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
