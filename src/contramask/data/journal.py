"""What of a store is already packed, so that a build that was killed goes on where it was.

Pixels lie in the store's own files; a piece of the journal says which of their rows are done, with
a checksum, and holds what is not in those files yet. A piece counts only while the configuration
and every file of the source are the ones it was made with.
"""

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL

from contramask import __version__
from contramask.data.config import DatasetConfig
from contramask.data.packing import SplitWriter
from contramask.data.record import Source
from contramask.data.tree import walk
from contramask.typed import to_plain

#: Seconds of work that a kill may cost; a build that is shorter writes no piece at all.
PIECE_SECONDS = 10.0
#: Keys that change nothing in what is packed.
_FREE = ("workers", "max_problem_share", "downloads")
_log = logging.getLogger(__name__)

Row = tuple[Any, ...]


class Journal:
    """The finished pieces of one build, in files `000000.json`, ... of a folder."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.count, self.noted = 0, 0  # pieces, and index rows in them
        self.saved = time.monotonic()

    def begin(self, store: Path) -> None:
        """Empty the folder of the store unless the journal speaks of just this build."""
        if next(self._pieces(), None) is None:
            self.clear()
            shutil.rmtree(store, ignore_errors=True)
        store.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    def restore(self, writers: Mapping[str, SplitWriter]) -> list[Row]:
        """Give the writers what is done and return its rows of the index.

        Stops at the first piece that is damaged, or whose pixels are no longer those it was made
        with; that and all later ones are made anew.
        """
        rows: list[Row] = []
        for piece in self._pieces():
            parts = piece["parts"]
            if not all(writers[name].holds(part) for name, part in parts.items()):
                break
            for name, part in parts.items():
                writers[name].restore(part)
            rows += [tuple(row) for row in piece["rows"]]
            self.count += 1
        for path in sorted(self.folder.glob("*.json"))[self.count :]:
            path.unlink()
        self.noted = len(rows)
        if rows:
            _log.info("going on: %s images were packed before", f"{len(rows):,}")
        return rows

    def note(self, rows: list[Row], writers: Mapping[str, SplitWriter]) -> None:
        """Write a piece when one is due; `rows` are those of the whole index so far."""
        if time.monotonic() - self.saved < PIECE_SECONDS:
            return
        parts = {name: writer.part() for name, writer in writers.items()}
        piece = {"key": self.key, "rows": rows[self.noted :], "parts": parts}
        path = self.folder / f"{self.count:06d}.json"
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(piece, stream, default=_plain)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        self.count, self.noted, self.saved = self.count + 1, len(rows), time.monotonic()

    def clear(self) -> None:
        """Forget everything: the store is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pieces(self) -> Iterator[dict[str, Any]]:
        """The pieces in order, up to the first that lacks, is damaged or of another build."""
        number = 0
        while (path := self.folder / f"{number:06d}.json").is_file():
            try:
                piece = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return
            if piece.get("key") != self.key:
                return
            yield piece
            number += 1


def build_key(config: DatasetConfig, source: Source) -> str:
    """Hash of all that decides what is packed: configuration, code, every file's size and time."""
    plain = {key: value for key, value in to_plain(config).items() if key not in _FREE}
    versions = [__version__, np.__version__, cv2.__version__, PIL.__version__]
    classes = [source.classes, source.semantic_classes, source.instance_classes]
    digest = hashlib.sha256(json.dumps([plain, versions, classes]).encode())
    digest.update(json.dumps(list(source.splits)).encode())
    if config.dataset_id is not None:  # nothing on this machine tells its versions apart
        digest.update(uuid.uuid4().bytes)
    for path in _paths(config):
        for name, status in _stamps(path):
            digest.update(f"{name}\0{status}\n".encode())
    return digest.hexdigest()[:16]


def _paths(config: DatasetConfig) -> list[Path]:
    """What the source may read: root, and what else was named, wherever it was written from."""
    root = config.root
    named = (config.annotations, config.images, config.masks, config.classes_file)
    given = [path for path in named if path is not None]
    beside = [root / path for path in given] if root else []
    return [p for p in (root, *given, *beside) if p is not None and p.expanduser().exists()]


def _stamps(path: Path) -> Iterator[tuple[str, str]]:
    path = path.expanduser()
    found = sorted(walk(path, Counter()), key=str) if path.is_dir() else [(path, path.name)]
    for file, name in found:
        try:
            status = file.stat()
        except OSError:
            yield name, "gone"
            continue
        yield name, f"{status.st_size} {status.st_mtime_ns}"


def _plain(value: Any) -> Any:
    return value.item()  # a NumPy number
