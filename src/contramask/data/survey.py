"""Looks at any folder or file and says what it holds, without ever failing on a bad file."""

import logging
import os
import shlex
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from contramask.data.config import DatasetConfig
from contramask.data.decode import FileFacts, WrongChannels, decode
from contramask.data.readers import READERS, RECOGNISERS
from contramask.data.readers.folder import images_in
from contramask.data.readers.layout import Layout
from contramask.data.record import SPLITS, LazyRecords, Record, Source, UnreadableImage
from contramask.data.tree import FileTree

log = logging.getLogger(__name__)

#: What shows the progress of a long loop: (items, description, total) -> the same items.
Watch: TypeAlias = Callable[[Iterable[Any], str, int], Iterable[Any]]
_QUANTILES = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95}
_QUANTILES |= {"max": 1.0}
_SIDE = 32  # JPEG is decoded no larger than this needs
_NAMED = 5  # examples of a kind of problem, groups of equal images
#: Endings that mean a format of another name, and formats that are as good as another.
_FORMATS = {"JPG": "JPEG", "JPE": "JPEG", "JFIF": "JPEG", "TIF": "TIFF", "JP2": "JPEG2000"}
_FORMATS |= {"PGM": "PPM", "PBM": "PPM", "PNM": "PPM", "MPO": "JPEG", "DIB": "BMP"}
_COLUMNS = [
    *("id", "split", "label", "format", "height", "width", "mode", "channels", "bit_depth"),
    *("sha256", "objects", "has_mask", "ok", "problem", "remark", "usual"),
]
_UNKNOWN = ("", 0, 0, "", 0, 0, "")  # format to sha256 of an image that cannot be read


def survey(path: Path, limit: int, watch: Watch) -> dict[str, Any]:
    """What lies at `path` (a folder, an archive, a table or an image), as plain values.

    All files are listed, at most `limit` images (0: all) decoded, spread evenly over them. Raises
    `ValueError` only when there is nothing at `path`.
    """
    began = time.perf_counter()
    root = path.expanduser().resolve()
    if not root.exists():
        raise ValueError(f"{root} does not exist (seen from {Path.cwd()}); give a folder or a file")
    tree = FileTree(root)
    layouts = _layouts(tree)
    source, layouts, complaints = _opened(layouts, root)
    is_set = source is not None
    source = source or _any_images(tree)
    chosen = _sample(len(source.records), limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's and tifffile's name no file; our tables do
        rows = list(watch(_looked_at(source, chosen), "looking at images", len(chosen)))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    channels = _kept_channels(table)
    return {
        "path": str(root),
        "layouts": [_layout_row(layout, root, channels, complaints) for layout in layouts],
        "files": _files(tree),
        "images": {"found": len(source.records), "decoded": len(chosen), **_images(table)},
        "splits": {name: source.splits.count(name) for name in SPLITS if is_set},
        "annotations": _annotations(source, table),
        "facts": dict(source.facts),
        "duplicates": _duplicates(table),
        "problems": _problems(table, channels),
        "seconds": round(time.perf_counter() - began, 2),
    }


def command(layout: Layout, root: Path, keys: dict[str, str]) -> str:
    """What to type to build the store of a layout."""
    values = {"source": layout.source, "root": str(root), **layout.keys, **keys}
    if any(letter in value for value in values.values() for letter in ",="):
        # --params has no way to write a comma.
        listed = ", ".join(f'{key}: "{value}"' for key, value in values.items())
        text = shlex.quote(f"dataset: {{{listed}}}")
        return (
            f"echo {text} > conf/local/parameters.yml && kedro run --env local --pipeline dataset"
        )
    parameters = ",".join(f"dataset.{key}={value}" for key, value in values.items())
    return f"kedro run --pipeline dataset --params {shlex.quote(parameters)}"


def _layouts(tree: FileTree) -> list[Layout]:
    found = []
    for recognise in RECOGNISERS:
        try:
            layout = recognise(tree)
        except Exception:  # a file no reader expected: then it is not this layout
            log.debug("%s gave up on %s", recognise.__name__, tree, exc_info=True)
            continue
        if layout is not None:
            found.append(layout)
    return found


def _opened(
    layouts: list[Layout], root: Path
) -> tuple[Source | None, list[Layout], dict[str, str]]:
    """The first source that its reader can read, the layouts worth naming, and complaints."""
    complaints: dict[str, str] = {}
    first: Source | None = None
    named: list[Layout] = []
    for layout in layouts:
        if layout.source == "folder" and {n.source for n in named} - {"manifest", *complaints}:
            continue  # a plain folder would take masks for images
        named.append(layout)
        try:
            values: dict[str, Any] = {"source": layout.source, "root": root, **layout.keys}
            source = READERS[layout.source](DatasetConfig(**values))
        except Exception as error:  # said, and the next layout is tried
            complaints[layout.source] = str(error)
            continue
        first = first or source
    return first, named, complaints


def _any_images(tree: FileTree) -> Source:
    """Whatever looks like an image, for want of a layout: a single file, too."""
    names = images_in(tree)
    if tree.root.is_file() and not tree.names:
        record = Record(tree.root.name, tree.root, None)
        return Source(tree.root.name, [record], ["train"])
    records = LazyRecords(len(names), lambda i: Record(names[i], tree.image(names[i]), None))
    return Source(tree.root.name, records, ["train"] * len(names))


def _sample(count: int, limit: int) -> list[int]:
    if not limit or count <= limit:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, limit)]


def _looked_at(source: Source, chosen: list[int]) -> Iterator[tuple[Any, ...]]:
    def look(i: int) -> tuple[Any, ...]:
        return _row(source, i)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield from pool.map(look, chosen)


def _row(source: Source, i: int) -> tuple[Any, ...]:
    """One row of `_COLUMNS` about a record."""
    split = source.splits[i]
    try:
        record = source.records[i]
    except Exception as error:  # an annotation no reader expected
        return (f"image {i}", split, -1, *_UNKNOWN, 0, False, False, str(error), "", True)
    label = -1 if record.label is None else record.label
    rest = (len(record.instances), record.semantic is not None)
    try:
        facts, usual = _facts(record.image)
    except UnreadableImage as error:
        return (record.id, split, label, *_UNKNOWN, *rest, False, str(error), "", True)
    problem = "; ".join([*facts.notes, *record.notes])
    remark = _misnamed(record.id, facts.format)
    size = (facts.format, facts.height, facts.width, facts.mode, facts.channels, facts.bit_depth)
    return (record.id, split, label, *size, facts.sha256, *rest, True, problem, remark, usual)


def _facts(image: Any) -> tuple[FileFacts, bool]:
    """The facts, and whether the image can be made RGB."""
    try:
        return decode(image, _SIDE).facts, True
    except WrongChannels as found:
        return decode(image, _SIDE, found.channels).facts, False


def _misnamed(name: str, kind: str) -> str:
    ending = PurePosixPath(name).suffix[1:].upper()
    if not ending or not kind or not ending.isalnum():
        return ""
    called, real = _FORMATS.get(ending, ending), _FORMATS.get(kind, kind)
    return f"is {kind} and called .{ending.lower()}" if called != real else ""


def _files(tree: FileTree) -> dict[str, Any]:
    endings = Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in tree.names)
    if not tree.names:
        endings[tree.root.suffix.lower() or "without ending"] = 1
    return {
        "count": sum(endings.values()),
        "by_ending": dict(endings.most_common()),
        "not_opened": dict(tree.closed) if tree.root.is_dir() else {},
    }


def _images(table: pd.DataFrame) -> dict[str, Any]:
    good = table[table["ok"].astype(bool)]
    return {
        "readable": len(good),
        **{key: _counts(good[key]) for key in ("format", "mode", "channels", "bit_depth")},
        "sizes": {
            side: {n: float(good[side].quantile(q)) for n, q in _QUANTILES.items()}
            for side in (("width", "height") if len(good) else ())
        },
    }


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(value): int(count) for value, count in column.value_counts().items()}


def _annotations(source: Source, table: pd.DataFrame) -> dict[str, Any]:
    labels = Counter(int(label) for label in table["label"])
    return {
        "classes": {name: labels[i] for i, name in enumerate(source.classes)},
        "unlabelled": labels[-1] if source.classes else 0,
        "semantic_classes": source.semantic_classes,
        "with_mask": int(table["has_mask"].sum()),
        "instance_classes": source.instance_classes,
        "objects": int(table["objects"].sum()),
    }


def _duplicates(table: pd.DataFrame) -> dict[str, Any]:
    good = table[table["sha256"] != ""]
    again = good[good["sha256"].duplicated(keep=False)]
    groups = sorted(
        (group for _, group in again.groupby("sha256", sort=False)),
        key=lambda group: group["split"].nunique(),
        reverse=True,
    )
    return {
        "surplus": int(good["sha256"].duplicated().sum()),
        "across_splits": sum(group["split"].nunique() > 1 for group in groups),
        "examples": [list(group["id"])[:_NAMED] for group in groups[:_NAMED]],
    }


def _kept_channels(table: pd.DataFrame) -> int:
    """3, unless most images have channels that cannot be made RGB."""
    odd = table.loc[~table["usual"].astype(bool), "channels"]
    return int(odd.mode()[0]) if 2 * len(odd) > int(table["ok"].sum()) else 3


def _problems(table: pd.DataFrame, channels: int) -> list[dict[str, Any]]:
    """What would be skipped, converted, or used although it is odd; all files, in that order."""
    found: dict[str, list[dict[str, Any]]] = {"skipped": [], "converted": [], "used": []}
    for row in table.itertuples():
        action, problem = "converted", "; ".join(t for t in (row.problem, row.remark) if t)
        if not row.ok:
            action = "skipped"
        elif not row.usual if channels == 3 else row.channels != channels:
            action, problem = "skipped", str(WrongChannels(row.channels, channels))
        elif not row.problem:
            action = "used"
        if problem:
            found[action].append({"id": row.id, "action": action, "problem": problem})
    return [*found["skipped"], *found["converted"], *found["used"]]


def _layout_row(
    layout: Layout, root: Path, channels: int, complaints: dict[str, str]
) -> dict[str, str]:
    keys = {} if channels == 3 else {"channels": str(channels)}
    return {
        "source": layout.source,
        "why": layout.why,
        "command": command(layout, root, keys),
        "complaint": complaints.get(layout.source, ""),
    }
