"""From rows of a table (name, split, label, image) to a source: what table-like readers share."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from contramask.data.config import DatasetConfig
from contramask.data.record import ImageSource, LazyRecords, Record, Source
from contramask.data.split import chosen_rows, settle_splits, split_word

IMAGE_COLUMNS = (
    *("image", "img", "image_path", "path", "filepath", "file_path", "file_name", "filename"),
    *("file", "image_id", "id", "jpg", "png", "bytes", "content"),
)
LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "category",
    "target",
    "class_name",
    "label_name",
    "cls",
)
SPLIT_COLUMNS = ("split", "subset", "partition", "set")


def row_source(
    name: str,
    rows: pd.DataFrame,
    image: Callable[[int], ImageSource],
    label_names: Sequence[str] | None,
    config: DatasetConfig,
    facts: dict[str, Any],
) -> Source:
    """A source of classified images.

    `rows` has a column `name`, and `split` (train, val, test or what it calls them) and `label`
    where known; `image` gives the image of a row number. Raises `ValueError` for labels that are
    no classes.
    """
    labels, classes = label_indices(rows.get("label"), len(rows), label_names)
    names = _unique(rows["name"].astype(str).tolist())
    words = [split_word(word) for word in rows["split"]] if "split" in rows else [None] * len(rows)
    splits, facts["split"] = settle_splits(words, names, config.val_fraction, labels)
    facts["outside_splits"] = splits.count(None)
    kept = chosen_rows(names, splits, labels, (config.limit, config.val_limit))

    def make(i: int) -> Record:
        row = kept[i]
        label = labels[row] if labels[row] >= 0 else None
        return Record(names[row], image(row), splits[row], str(rows["name"].iat[row]), label)

    chosen = [split for split in (splits[row] for row in kept) if split]
    return Source(name, LazyRecords(len(kept), make), chosen, classes, facts=facts)


def find_column(
    there: Sequence[str], given: str | None, usual: Sequence[str], key: str, where: str
) -> str | None:
    """The column that `dataset.<key>` names, or the first usual one; None without.

    Raises `ValueError` when the one that was named is not there.
    """
    if given is not None:
        if given not in there:
            raise ValueError(
                f"dataset.{key} {given} is no column of {where}; it has {', '.join(there)}"
            )
        return given
    lowered = {name.lower(): name for name in reversed(there)}
    return next((lowered[name] for name in usual if name in lowered), None)


def label_indices(
    values: pd.Series | None, count: int, names: Sequence[str] | None
) -> tuple[list[int], list[str]]:
    """The class index of each row (-1 without one) and the class names.

    With `names` the values are positions in it, else their sorted values are the classes.
    """
    if values is None or values.isna().all():
        return [-1] * count, []
    if names is not None:
        found = values.fillna(-1).astype(int)
        if found.max() >= len(names):
            raise ValueError(f"a label is {found.max()}, and only {len(names)} classes have names")
        return found.clip(lower=-1).tolist(), distinct([str(n) for n in names])
    try:
        classes = sorted(values.dropna().unique())
    except TypeError as error:
        raise ValueError(
            "the labels are lists or of several kinds; one class an image is needed, as a number"
            f" or a word ({error})"
        ) from error
    if any(isinstance(value, float) and not value.is_integer() for value in classes):
        raise ValueError("the labels are measurements and no classes; name another label_column")
    position = {value: i for i, value in enumerate(classes)}
    # A column of whole numbers with gaps is one of floating-point numbers.
    shown = [f"{value:.0f}" if isinstance(value, float) else str(value) for value in classes]
    return values.map(position).fillna(-1).astype(np.int64).tolist(), shown


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with their position where one means two classes (crane)."""
    twice = {name for name, count in Counter(names).items() if count > 1}
    return [f"{name} ({i})" if name in twice else name for i, name in enumerate(names)]


def _unique(names: list[str]) -> list[str]:
    if len(set(names)) == len(names):
        return names
    return [f"{i}/{name}" for i, name in enumerate(names)]
