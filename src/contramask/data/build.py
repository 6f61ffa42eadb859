"""Builds the data set of an experiment: read, decode, check, pack, describe."""

import json
import logging
import math
import os
import shutil
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from contramask.data.config import DatasetConfig
from contramask.data.index import data_card, index_row, index_table, problem_table
from contramask.data.journal import Journal, build_key
from contramask.data.jpeg import QUALITY, single_opencv
from contramask.data.packing import SplitWriter
from contramask.data.pixel_files import raw_bytes, with_kind
from contramask.data.prepare import Prepared, prepare
from contramask.data.public_sets import with_files
from contramask.data.readers import READERS
from contramask.data.record import SPLITS, Source
from contramask.data.sheet import contact_sheet
from contramask.data.store import SCHEMA, Store, content_hash
from contramask.failures import explained
from contramask.progress import track

#: Fewer unreadable images than this never stop a run, however small the folder is.
TOLERATED_PROBLEMS = 20
_IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_TASK = 8  # images a thread prepares at a time
_JPEG_SHRINKS = 6  # photographs: about a tenth; of whole images, with some room
_CONTINUED = "what is packed is kept, and the next call goes on there"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuiltDataset:
    """The packed images and everything to be said about them.

    `index` has one row an image, `problems` one a skipped or converted image (`INDEX_COLUMNS`,
    `PROBLEM_COLUMNS` of `contramask.data.index`); `contact_sheet` is uint8 (rows, cols, 3).
    `store.write(folder)` moves the store out of the working folder.
    """

    index: pd.DataFrame
    problems: pd.DataFrame
    card: dict[str, Any]
    store: Store
    contact_sheet: np.ndarray


def build_dataset(config: DatasetConfig, work: Path) -> BuiltDataset:
    """Read the configured source and pack it into a store under `work`.

    A call that was killed is continued there, unless configuration or files have changed.
    Unreadable images are skipped and listed. Raises `ValueError` when the source is missing or
    empty, when no train image is left, or when at least 20 images *and* more than
    `max_problem_share` of all are unreadable, and `StageFailure` if disk or memory do not suffice.
    """
    advice = "Set dataset.workers, or dataset.image_size, to less"
    return explained(lambda: _built(config, work), work, lambda: advice, _CONTINUED)


def _built(config: DatasetConfig, work: Path) -> BuiltDataset:
    config = with_files(config)
    began = time.perf_counter()
    source = READERS[config.source](config)
    config = with_kind(config, len(source.records))
    folder = Path(work) / "store"
    journal = Journal(Path(work) / "pieces", build_key(config, source))
    journal.begin(folder)
    _check_room(folder, _bytes_needed(config, source))
    rows, writers = _pack(config, source, folder, journal)
    index = index_table(rows)
    counts = {name: writer.finish() for name, writer in writers.items()}
    _check_train(counts, index)
    manifest = _manifest(config, source, counts, writers)
    manifest["data_hash"] = content_hash(folder, manifest)
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
    journal.clear()
    store = Store.read_draft(folder)
    card = data_card(index, manifest, source.facts)
    sheet = contact_sheet(store["train"].images, config.seed)
    seconds = time.perf_counter() - began
    if card["duplicates"]["across"]:
        _log.warning(
            "%d val images are also in train, byte for byte: val results flatter; the first: %s",
            *(card["duplicates"]["across"], " = ".join(card["duplicates"]["examples"][0])),
        )
    _log.info(
        "%s: %d images in %.1f s (%.0f images/s), %d skipped, %d converted",
        *(source.name, len(index), seconds, len(index) / seconds),
        *(card["unreadable"], card["converted"]),
    )
    return BuiltDataset(index, problem_table(index), card, store, sheet)


def _pack(
    config: DatasetConfig, source: Source, folder: Path, journal: Journal
) -> tuple[list[tuple[Any, ...]], dict[str, SplitWriter]]:
    writers: dict[str, SplitWriter] = {
        name: SplitWriter(
            folder / name,
            (source.splits.count(name), *config.image_size, config.channels),
            has_semantic=bool(source.semantic_classes),
            has_instances=bool(source.instance_classes),
            kind="jpeg" if config.store == "jpeg" else "raw",
        )
        for name in SPLITS
        if source.splits.count(name)
    }
    rows = journal.restore(writers)
    skipped = [(name, problem) for name, *_, is_ok, problem in rows if not is_ok]
    total, done = len(source.records), len(rows)
    images = _prepared(config, source, done)
    for image in track(images, f"reading {source.name}", total, done):
        rows.append(index_row(image, source.classes))
        if image.facts is None:
            skipped.append((image.id, image.problem))
            _check_problems(config, skipped, total)
        else:
            writers[image.split].add(image)
        journal.note(rows, writers)
    return rows, writers


def _prepared(config: DatasetConfig, source: Source, first: int) -> Iterator[Prepared]:
    """The images from `first` on in the source's order, by threads that run a little ahead."""
    workers = config.workers or os.cpu_count() or 1

    def task(start: int) -> list[Prepared]:
        stop = min(start + _TASK, len(source.records))
        return [prepare(source.records[i], source.splits[i], config) for i in range(start, stop)]

    pending: deque[Future[list[Prepared]]] = deque()
    with warnings.catch_warnings(), single_opencv(), ThreadPoolExecutor(workers) as pool:
        # Pillow's own warnings (large image, odd EXIF) would name no file; our table does.
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        for start in range(first, len(source.records), _TASK):
            pending.append(pool.submit(task, start))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _check_problems(config: DatasetConfig, skipped: list[tuple[str, str]], total: int) -> None:
    allowed = config.max_problem_share * total
    if len(skipped) < TOLERATED_PROBLEMS or len(skipped) <= allowed:
        return
    listing = _listing(skipped)
    raise ValueError(
        f"{len(skipped)} of {total} images cannot be used so far, more than the allowed share"
        f" {config.max_problem_share:g}; repair or remove them, or raise"
        f" dataset.max_problem_share. The first ones:\n{listing}"
    )


def _listing(named: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"  - {name} {problem}" for name, problem in list(named)[:5])


def _check_train(counts: dict[str, int], index: pd.DataFrame) -> None:
    if counts.get("train"):
        return
    bad = index[~index["ok"]]
    listing = _listing(zip(bad["id"], bad["problem"], strict=True))
    raise ValueError(
        f"no readable train image is left of the {len(index)} given; give at least one (and see"
        f" dataset.val_fraction, dataset.limit). The first that could not be used:\n{listing}"
    )


def _bytes_needed(config: DatasetConfig, source: Source) -> int:
    count, pixels = len(source.records), raw_bytes(config, len(source.records))
    if config.store == "jpeg":
        pixels //= _JPEG_SHRINKS
    return pixels + bool(source.semantic_classes) * count * math.prod(config.image_size)


def _check_room(folder: Path, needed: int) -> None:
    # A memory-mapped file on a full disk ends the process without a word. What a build that was
    # stopped has written need not be written again.
    free, used = shutil.disk_usage(folder).free, _used(folder)
    if needed > free + used:
        raise ValueError(
            f"the store needs {(needed - used) / 1e9:.1f} GB under {folder} and {free / 1e9:.1f} GB"
            " are free; free some, or lower dataset.limit or dataset.image_size"
        )


def _used(folder: Path) -> int:
    """Bytes that files below the folder take on the disk; 0 on systems that do not say."""
    files = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(getattr(status, "st_blocks", 0) * 512 for status in files)


def _manifest(
    config: DatasetConfig, source: Source, counts: dict[str, int], writers: dict[str, SplitWriter]
) -> dict[str, Any]:
    measured = _mean_std(writers["train"].histogram)
    mean_used, std_used = _IMAGENET if config.normalize == "imagenet" else measured
    pixels = {"kind": "jpeg", "quality": QUALITY, "fit": config.fit}
    return {
        # Left out of raw stores, whose hashes would all change.
        **({"pixels": pixels} if config.store == "jpeg" else {}),
        "schema": SCHEMA,
        "name": source.name,
        "image_size": list(config.image_size),
        "channels": config.channels,
        "mean": list(mean_used),
        "std": list(std_used),
        "classes": source.classes,
        "semantic_classes": source.semantic_classes,
        "instance_classes": source.instance_classes,
        "instance_masks": bool(source.facts.get("instance_masks", False)),
        "splits": {name: count for name, count in counts.items() if count},
    }


def _mean_std(histogram: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and std of each channel in [0, 1] from counts (C, 256), exact before rounding."""
    values = np.arange(256) / 255
    share = histogram / histogram.sum(axis=1, keepdims=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
    # One grey level at least: images of a single colour must not divide by zero.
    std = np.maximum(np.sqrt(variance), 1 / 255)
    return [round(float(v), 6) for v in mean], [round(float(v), 6) for v in std]
