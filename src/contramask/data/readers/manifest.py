"""A table of images: CSV, TSV, JSON lines or parquet, with paths or encoded images in a column.

Labels and splits may stand in further columns. Paths start from the table's folder, or from
`dataset.images`. `root` may also be a folder of parquet shards, whose names then tell the split.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from contramask.data.config import DatasetConfig
from contramask.data.readers import parquet
from contramask.data.readers.layout import Layout
from contramask.data.readers.rows import (
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    distinct,
    find_column,
    row_source,
)
from contramask.data.record import ImageSource, Source, UnreadableImage
from contramask.data.split import split_word
from contramask.data.tree import FileTree, given_root, walk

_TEXT = (".csv", ".tsv", ".jsonl")
_WANTED = "give a csv, tsv, jsonl or parquet file (or a folder of parquet files) that lists images"
_TRIED = 20  # paths looked up before the table is taken to hold bare names
_PLACE = ("shard", "group", "row")


def read(config: DatasetConfig) -> Source:
    """Read the table `config.root`; raises `ValueError` where it does not fit."""
    root = given_root(config.root, "manifest", _WANTED)
    files = table_files(root)
    if not files:
        raise ValueError(f"dataset.root {root} is no table; {_WANTED}")
    return read_tables(config, root, files)


def recognise(tree: FileTree) -> Layout | None:
    """A table with a column that is usually one of images."""
    files = table_files(tree.root)
    try:
        columns = _used(DatasetConfig(source="manifest"), files[0]) if files else None
        if columns is None or not _has_images(files[0], columns):
            return None
    except ValueError:
        return None
    root = {} if len(files) > 1 or files[0].suffix == ".parquet" else {"root": str(files[0])}
    shown = ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
    return Layout("manifest", f"a table of images: {shown}, column {columns.image}", root)


def table_files(root: Path) -> list[Path]:
    """The tables at `root`: itself, the parquet files below it, or its only text table."""
    if root.is_file():
        return [root] if root.suffix.lower() in (*_TEXT, ".parquet") else []
    found = sorted(f for f in root.rglob("*.parquet") if not f.name.startswith("."))
    if found:
        return found
    texts = sorted(file for file in root.iterdir() if file.suffix.lower() in _TEXT)
    return texts if len(texts) == 1 else []


@dataclass(frozen=True)
class _Columns:
    """The columns that are used; `label_name` words the numbers of `label`."""

    image: str
    label: str | None
    split: str | None
    label_name: str | None
    file_name: str | None
    has_bytes: bool

    @property
    def read(self) -> list[str]:
        """All but encoded images, which are fetched one by one."""
        used = [self.label, self.split, self.label_name, self.file_name]
        return [*dict.fromkeys(c for c in ([] if self.has_bytes else [self.image]) + used if c)]


def read_tables(config: DatasetConfig, root: Path, files: list[Path]) -> Source:
    """A source from tables of the same columns."""
    columns = _used(config, files[0])
    parts = [_read_table(file, i, columns) for i, file in enumerate(files)]
    table = pd.concat(parts, ignore_index=True)
    rows = pd.DataFrame({"split": table[columns.split or "shard_split"]})
    label_names = None
    if columns.label:
        rows["label"] = table[columns.label]
        if files[0].suffix == ".parquet":
            label_names = parquet.class_names(files[0], columns.label)
        if columns.label_name and label_names is None:
            rows["label"], label_names = _by_number(rows["label"], table[columns.label_name])
    if columns.has_bytes:
        rows["name"] = _row_names(table, rows["split"], files)
        image = _bytes_of(table, files, columns.image)
    else:
        rows["name"] = table[columns.image].astype(str)
        image = _paths_of(rows["name"].tolist(), _base(config, root))
    facts: dict[str, Any] = {"table": [f.name for f in files[:5]], "image_column": columns.image}
    return row_source(root.stem, rows, image, label_names, config, facts)


def _used(config: DatasetConfig, file: Path) -> _Columns:
    there, where = _columns(file), str(file)
    image = _image_column(there, config.image_column, file)
    if image is None:
        raise ValueError(
            f"{where} has the columns {', '.join(there)}, and none with a usual name for images;"
            " name it with dataset.image_column"
        )
    label = find_column(there, config.label_column, LABEL_COLUMNS, "label_column", where)
    return _Columns(
        image=image,
        label=label,
        split=find_column(there, config.split_column, SPLIT_COLUMNS, "split_column", where),
        label_name=f"{label}_name" if f"{label}_name" in there else None,
        file_name="file_name" if "file_name" in there else None,
        has_bytes=file.suffix == ".parquet" and parquet.holds_bytes(file, image),
    )


def _columns(file: Path) -> list[str]:
    if file.suffix == ".parquet":
        return parquet.column_names(file)
    return [str(name) for name in _read_text(file, 1, ())]


def _has_images(file: Path, columns: _Columns) -> bool:
    """Whether the first rows hold images, or name files that are there."""
    if columns.has_bytes:
        return True
    table = _read_table(file, 0, columns)
    names = table[columns.image].astype(str).head(_TRIED).tolist()
    image = _paths_of(names, file.parent)
    return any(isinstance(path, Path) and path.is_file() for path in map(image, range(len(names))))


def _image_column(there: list[str], given: str | None, file: Path) -> str | None:
    """The given or usual column; in parquet one that holds bytes goes first, whatever its name."""
    if given is None and file.suffix == ".parquet":
        with_bytes = [name for name in there if parquet.holds_bytes(file, name)]
        usual = find_column(with_bytes, None, IMAGE_COLUMNS, "image_column", str(file))
        if usual or len(with_bytes) == 1:
            return usual or with_bytes[0]
    return find_column(there, given, IMAGE_COLUMNS, "image_column", str(file))


def _read_text(file: Path, nrows: int | None, as_text: Sequence[str]) -> pd.DataFrame:
    kinds: dict[Any, Any] = dict.fromkeys(as_text, str)
    try:
        if file.suffix.lower() == ".jsonl":
            return pd.read_json(file, lines=True, nrows=nrows, dtype=kinds or True)
        separator = "\t" if file.suffix.lower() == ".tsv" else ","
        return pd.read_csv(file, sep=separator, nrows=nrows, dtype=kinds, skipinitialspace=True)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{file} cannot be read as a table: {error}") from error


def _read_table(file: Path, shard: int, columns: _Columns) -> pd.DataFrame:
    if file.suffix == ".parquet":
        lacking = {columns.image, *columns.read} - set(parquet.column_names(file))
        if lacking:
            raise ValueError(f"{file} lacks the columns {', '.join(sorted(lacking))}")
        table = parquet.read_columns(file, shard, columns.read)
    else:
        # An image called 0001 must not become 1.
        table = _read_text(file, None, [columns.image])[columns.read].copy()
    words = [split_word(word) for word in (file.stem, file.stem.split("-")[0], file.parent.name)]
    table["shard_split"] = next((word for word in words if word), None)
    return table


def _by_number(numbers: pd.Series, names: pd.Series) -> tuple[pd.Series, list[str]]:
    """Labels as positions in the list of their names, in the order of their numbers."""
    values = sorted(numbers.dropna().unique())
    first = names[numbers.drop_duplicates().index]
    named = dict(zip(numbers[first.index], first, strict=True))
    position = {value: i for i, value in enumerate(values)}
    return numbers.map(position), distinct([str(named[value]) for value in values])


def _row_names(table: pd.DataFrame, splits: pd.Series, files: list[Path]) -> list[str]:
    if "file_name" in table:
        named = [f"{s}/{n}" for s, n in zip(splits, table["file_name"], strict=True)]
        if len(set(named)) == len(named):
            return named
    places = zip(*(table[name] for name in _PLACE), strict=True)
    return [f"{files[shard].stem}/{group}/{row}" for shard, group, row in places]


def _bytes_of(table: pd.DataFrame, files: list[Path], column: str) -> Any:
    images = parquet.ParquetImages(files, column)
    shard, group, row = (table[name].to_numpy() for name in _PLACE)

    def image(i: int) -> ImageSource:
        return partial(images.fetch, int(shard[i]), int(group[i]), int(row[i]))

    return image


def _base(config: DatasetConfig, root: Path) -> Path:
    here = root if root.is_dir() else root.parent
    if config.images is None:
        return here
    inner = here / config.images.expanduser()
    base = inner if inner.is_dir() else config.images.expanduser().resolve()
    if not base.is_dir():
        raise ValueError(
            f"dataset.images {config.images} is no folder, from {here} or {Path.cwd()}"
        )
    return base


def _paths_of(names: list[str], base: Path) -> Any:
    """Images by path; where none of the first is there, by bare name or stem, at any depth."""
    by_name: dict[str, Path] = {}
    if not any((base / name).is_file() for name in names[:_TRIED]):
        for file, _ in walk(base, Counter()):
            by_name.setdefault(file.name, file)
            by_name.setdefault(file.stem, file)

    def image(i: int) -> ImageSource:
        path = by_name.get(Path(names[i]).name, base / names[i])
        return partial(_no_download, names[i]) if "://" in names[i] else path

    return image


def _no_download(address: str) -> bytes:
    raise UnreadableImage(f"is an address ({address[:60]}); download the images first")
