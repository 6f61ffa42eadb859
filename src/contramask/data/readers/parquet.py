"""Images inside parquet files: single encoded images out of row groups, for all threads."""

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_GROUPS_KEPT = 4  # row groups held at once: as many as threads are likely to straddle


class ParquetImages:
    """Reads single encoded images out of a column of parquet files, a row group at a time.

    A cell holds bytes, or a struct with a field `bytes`.
    """

    def __init__(self, files: Sequence[Path], column: str = "image") -> None:
        self.files, self.column = files, column
        self._cache: OrderedDict[tuple[int, int], pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()

    def fetch(self, shard: int, group: int, row: int) -> bytes:
        """The encoded bytes of a row of a row group; empty when the cell is null."""
        with self._lock:
            key = (shard, group)
            if key not in self._cache:
                with pq.ParquetFile(self.files[shard]) as file:
                    table = file.read_row_group(group, columns=[self.column])
                self._cache[key] = table[self.column]
                if len(self._cache) > _GROUPS_KEPT:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(key)
            cell = self._cache[key][row].as_py()
        found = cell.get("bytes") if isinstance(cell, dict) else cell
        return bytes(found or b"")


def column_names(file: Path) -> list[str]:
    """The columns of a parquet file; raises `ValueError` naming the file when it is none."""
    try:
        return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read as parquet: {error}") from error


def holds_bytes(file: Path, column: str) -> bool:
    """Whether a column holds encoded images and not their paths."""
    kind = pq.read_schema(file).field(column).type
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_struct(kind))


def _is_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and "bytes" in [
        kind.field(i).name for i in range(kind.num_fields)
    ]


def read_columns(file: Path, shard: int, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of a file, and where each row lies: shard, group, row."""
    try:
        with pq.ParquetFile(file) as parquet:
            table: pd.DataFrame = parquet.read(columns=list(columns)).to_pandas()
            groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read as parquet: {error}") from error
    table = table.reset_index(drop=True).reindex(range(sum(groups)))
    table["shard"] = shard
    table["group"] = np.repeat(np.arange(len(groups)), groups)
    table["row"] = np.concatenate([np.arange(count) for count in groups]) if groups else []
    return table


def class_names(file: Path, column: str | None) -> list[str] | None:
    """The class names that the `datasets` library leaves in a file's metadata; None without."""
    metadata: dict[bytes, bytes] = pq.read_schema(file).metadata or {}
    try:
        features: Any = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names]
