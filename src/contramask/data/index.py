"""Tables about the images: the index, the problems, and the data card that sums them up."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from contramask.data.prepare import Prepared
from contramask.data.record import SPLITS

INDEX_COLUMNS = [
    "id",
    "path",
    "split",
    "height",
    "width",
    "mode",
    "channels",
    "bit_depth",
    "label",
    "label_name",
    "sha256",
    "ok",
    "problem",
]
PROBLEM_COLUMNS = ["id", "path", "problem", "action"]
_NAMED_DUPLICATES = 5


def index_row(image: Prepared, classes: Sequence[str]) -> tuple[Any, ...]:
    """One row of the index, in the order of `INDEX_COLUMNS`; sizes are 0 for unreadable files."""
    name = classes[image.label] if 0 <= image.label < len(classes) else ""
    start = (image.id, image.path, image.split)
    if image.facts is None:
        return (*start, 0, 0, "", 0, 0, image.label, name, "", False, image.problem)
    seen = image.facts
    size = (seen.height, seen.width, seen.mode, seen.channels, seen.bit_depth)
    return (*start, *size, image.label, name, seen.sha256, True, image.problem)


def index_table(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """The index: one row an image, readable or not."""
    return pd.DataFrame(rows, columns=INDEX_COLUMNS)


def problem_table(index: pd.DataFrame) -> pd.DataFrame:
    """The images that were skipped or converted with a loss, and why."""
    found = index[index["problem"] != ""]
    actions = ["converted" if ok else "skipped" for ok in found["ok"]]
    return found.assign(action=actions)[PROBLEM_COLUMNS].reset_index(drop=True)


def _enlarged(good: pd.DataFrame, size: list[int]) -> int:
    """How many images are smaller than the store keeps them, in rows or columns."""
    return int(((good["height"] < size[0]) | (good["width"] < size[1])).sum())


def data_card(
    index: pd.DataFrame, manifest: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """What a reader should know about the data, as plain values; equal for equal data."""
    good = index[index["ok"]]
    skipped = int((~index["ok"]).sum())
    return {
        "name": manifest["name"],
        "data_hash": manifest["data_hash"],
        "image_size": list(manifest["image_size"]),
        "splits": dict(manifest["splits"]),
        "mean": list(manifest["mean"]),
        "std": list(manifest["std"]),
        "classes": list(manifest["classes"]),
        "semantic_classes": list(manifest["semantic_classes"]),
        "instance_classes": list(manifest["instance_classes"]),
        "class_counts": _class_counts(good, manifest["classes"]),
        "unlabelled": int((good["label"] < 0).sum()),
        "modes": _counts(good["mode"]),
        "channels": _counts(good["channels"]),
        "bit_depths": _counts(good["bit_depth"]),
        "sizes": {side: _spread(good[side]) for side in ("height", "width")},
        "enlarged": _enlarged(good, manifest["image_size"]),
        "unreadable": skipped,
        "converted": int((index["problem"] != "").sum()) - skipped,
        "duplicates": _duplicates(good),
        "source": dict(facts),
    }


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in column.value_counts().sort_index().items()}


def _class_counts(good: pd.DataFrame, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for split in SPLITS if classes else ():
        labels = good.loc[good["split"] == split, "label"].value_counts()
        counts[split] = {name: int(labels.get(i, 0)) for i, name in enumerate(classes)}
    return counts


def _spread(column: pd.Series) -> dict[str, float]:
    return {
        "min": float(column.min()),
        "median": float(column.median()),
        "max": float(column.max()),
    }


def _duplicates(good: pd.DataFrame) -> dict[str, Any]:
    """Byte-identical images: surplus copies within each split, val images also in train, names."""
    split = {name: good[good["split"] == name] for name in SPLITS}
    surplus = {name: int(part["sha256"].duplicated().sum()) for name, part in split.items()}
    across = int(split["val"]["sha256"].isin(set(split["train"]["sha256"])).sum())
    again = good[good["sha256"].duplicated(keep=False)]
    groups = [group for _, group in again.groupby("sha256", sort=False)]
    groups.sort(key=lambda group: group["split"].nunique(), reverse=True)  # across splits first
    return {
        "within_train": surplus["train"],
        "within_val": surplus["val"],
        "across": across,
        "examples": [_some_names(group) for group in groups[:_NAMED_DUPLICATES]],
    }


def _some_names(group: pd.DataFrame) -> list[str]:
    """Ids of equal images; a group of both splits shows one of each first."""
    first = group.drop_duplicates("split")
    rest = group.drop(first.index)
    return [str(name) for name in pd.concat([first, rest])["id"]][:_NAMED_DUPLICATES]
