"""Sets of the Hugging Face hub: by id through the `datasets` library, or their parquet files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from contramask.data.config import DatasetConfig
from contramask.data.readers import manifest
from contramask.data.readers.rows import IMAGE_COLUMNS, LABEL_COLUMNS, find_column, row_source
from contramask.data.record import ImageSource, Source
from contramask.data.tree import given_root

_WANTED = "give dataset.dataset_id, or the folder of the set's parquet files"


def read(config: DatasetConfig) -> Source:
    """Open the set; raises `ValueError` when it is not there or has no images."""
    if config.dataset_id is None:
        root = given_root(config.root, "huggingface", _WANTED)
        files = [file for file in manifest.table_files(root) if file.suffix == ".parquet"]
        if not files:
            raise ValueError(f"dataset.root {root} holds no parquet file; {_WANTED}")
        return manifest.read_tables(config, root, files)
    parts = _load(config.dataset_id)
    first = next(iter(parts.values()))
    there, where = list(first.features), config.dataset_id
    column = find_column(there, config.image_column, IMAGE_COLUMNS, "image_column", where)
    if column is None:
        raise ValueError(
            f"{where} has the columns {', '.join(there)}, and none with a usual name for images;"
            " name it with dataset.image_column"
        )
    label = find_column(there, config.label_column, LABEL_COLUMNS, "label_column", where)
    names = getattr(first.features[label], "names", None) if label else None
    return _joined(config, parts, column, label, names)


def _joined(
    config: DatasetConfig,
    parts: dict[str, Any],
    column: str,
    label: str | None,
    names: Sequence[str] | None,
) -> Source:
    import datasets

    encoded = {
        split: part.cast_column(column, datasets.Image(decode=False)).select_columns([column])
        for split, part in parts.items()
    }
    frames = []
    for split, part in parts.items():
        frame = pd.DataFrame({"split": split, "row": range(len(part))})
        frame["name"] = [f"{split}/{row}" for row in frame["row"]]
        if label:
            frame["label"] = pd.Series(list(part[label]))
        frames.append(frame)
    rows = pd.concat(frames, ignore_index=True)

    def image(i: int) -> ImageSource:
        return partial(_cell, encoded[rows["split"].iat[i]], int(rows["row"].iat[i]), column)

    facts = {"dataset_id": config.dataset_id, "image_column": column}
    name = str(config.dataset_id).strip("/").replace("/", "-")
    return row_source(name, rows, image, names, config, facts)


def _cell(part: Any, row: int, column: str) -> bytes:
    cell = part[row][column] or {}
    if cell.get("bytes") is None and cell.get("path"):
        return Path(cell["path"]).read_bytes()
    return bytes(cell.get("bytes") or b"")


def _load(dataset_id: str) -> dict[str, Any]:
    """The splits of a set of the hub, from the local cache where it is there."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ValueError(
            "dataset.dataset_id needs the library `datasets`, which is not installed: `uv sync"
            " --extra huggingface`, or download the set's parquet files and give their folder as"
            " dataset.root"
        ) from None
    try:
        found: dict[str, Any] = dict(datasets.load_dataset(dataset_id))
    except Exception as error:  # network, name, access: the library has no common kind of error
        raise ValueError(
            f"dataset.dataset_id {dataset_id} cannot be loaded ({type(error).__name__}: {error});"
            " without a network, download its parquet files elsewhere and give their folder as"
            " dataset.root"
        ) from error
    return found
