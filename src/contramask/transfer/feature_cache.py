"""Features on disk: read from the images once for each encoder, then shared by all protocols."""

import hashlib
import json
import logging
import math
import os
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contramask.data.loader import Subset
from contramask.failures import StageFailure
from contramask.models.bundle import EncoderBundle
from contramask.train.device import Machine
from contramask.transfer.features import centred, feature_batches, readout_names, side_by_side

log = logging.getLogger(__name__)

#: Raised whenever what is read from an encoder, or how it lies on disk, changes.
_SCHEMA = 1


@dataclass(frozen=True)
class Source:
    """Images of one split of one store: what features are read from."""

    images: Subset
    split: str
    data_hash: str


@dataclass(frozen=True)
class Wanted:
    """What one pass keeps: readouts after `blocks` (from 1) too, and all tokens of some images.

    eval_crop: side of the centre crop that is read, in sides of the image.
    """

    blocks: tuple[int, ...] = ()
    #: Row numbers (T,) within the source's images, rising.
    token_rows: np.ndarray = field(default_factory=lambda: np.array([], np.int64))
    eval_crop: float = 1.0


class Features:
    """Features of a source's images, memory-mapped: nothing is read before it is asked for."""

    def __init__(self, arrays: dict[str, np.ndarray], labels: np.ndarray, wanted: Wanted) -> None:
        self.arrays = arrays
        self.labels = torch.from_numpy(labels)  # (N,) int64, -1 where an image has none
        self.token_rows = wanted.token_rows  # (T,)

    def readout(self, name: str) -> Tensor:
        """Features (N, D) float32 of a readout; `a+b` are two side by side."""
        return side_by_side({n: torch.from_numpy(a) for n, a in self.arrays.items()}, name)

    @property
    def tokens(self) -> np.ndarray:
        """Patch tokens (T, L, D) float16 of the images `token_rows`."""
        return self.arrays["tokens"]


class FeatureCache:
    """A folder of features by encoder and data; whatever changes either makes a new entry.

    The least recently used entries are removed once all take more than `megabytes`.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder, self.megabytes = folder, megabytes

    def features(
        self, bundle: EncoderBundle, source: Source, wanted: Wanted, machine: Machine
    ) -> Features:
        """Features from disk, or from one pass over the images, which leaves them on disk.

        An entry appears whole or not at all; a damaged one is made again.
        """
        described = _describe(bundle, source, wanted, machine)
        text = json.dumps(described, sort_keys=True)
        folder = self.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        arrays = _open(folder, described)
        if arrays is None:
            self._make(folder, described, bundle, source, wanted, machine)
            arrays = _open(folder, described)
            if arrays is None:
                raise OSError(f"features written to {folder} cannot be read back; is a disk full?")
        os.utime(folder)
        self._evict(folder)
        return Features(arrays, source.images.labels, wanted)

    def _make(
        self,
        folder: Path,
        described: dict[str, Any],
        bundle: EncoderBundle,
        source: Source,
        wanted: Wanted,
        machine: Machine,
    ) -> None:
        scratch = self.folder / f".{folder.name}-{uuid.uuid4().hex[:8]}"
        scratch.mkdir(parents=True)
        try:
            _write(scratch, bundle, source, wanted, machine)
            text = json.dumps(described, indent=2, sort_keys=True)
            (scratch / "manifest.json").write_text(text + "\n", encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been used
            try:
                os.replace(scratch, folder)
            except OSError:  # another process was faster, with the same features
                log.info("the features %s were written meanwhile", folder.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _evict(self, used: Path) -> None:
        try:
            entries = [(p.stat().st_mtime, p) for p in self.folder.glob("*") if p != used]
            total = _megabytes(used)
            for last_use, path in sorted(entries, reverse=True):
                total += _megabytes(path)
                # Another process may still be writing what begins with a dot.
                if total > self.megabytes and (path.name[0] != "." or _is_old(last_use)):
                    shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:
            log.info("another process is tidying up %s", self.folder)


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*")) / 1e6


def _is_old(last_use: float) -> bool:
    return time.time() - last_use > 24 * 3600


def encoder_hash(bundle: EncoderBundle) -> str:
    """16 hex digits over weights, sizes and the statistics that images are normalised with."""
    manifest = bundle.manifest
    plain = {name: manifest[name] for name in ("arch", "mean", "std")}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name, value in bundle.encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _describe(
    bundle: EncoderBundle, source: Source, wanted: Wanted, machine: Machine
) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "encoder": encoder_hash(bundle),
        "data": source.data_hash,
        "split": source.split,
        "rows": _rows_hash(source.images.rows),
        "blocks": list(wanted.blocks),
        "eval_crop": wanted.eval_crop,
        "token_rows": _rows_hash(wanted.token_rows),
        "device": machine.device.type,
        "precision": machine.precision,
        "arrays": {name: list(shape) for name, shape in _shapes(bundle, source, wanted).items()},
    }


def _rows_hash(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()[:16]


def _shapes(bundle: EncoderBundle, source: Source, wanted: Wanted) -> dict[str, tuple[int, ...]]:
    encoder = bundle.encoder
    names = readout_names(wanted.blocks)
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        shapes[name] = (len(source.images), encoder.embed_dim)
    if len(wanted.token_rows):
        shapes["tokens"] = (len(wanted.token_rows), encoder.num_patches, encoder.embed_dim)
    return shapes


def _write(
    folder: Path, bundle: EncoderBundle, source: Source, wanted: Wanted, machine: Machine
) -> None:
    shapes = _shapes(bundle, source, wanted)
    _check_room(folder, shapes)
    files = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=_dtype(name), shape=shape
        )
        for name, shape in shapes.items()
    }
    chosen = wanted.token_rows
    inputs = centred(bundle, machine.device, wanted.eval_crop)
    read = feature_batches(bundle, source.images, machine, wanted.blocks, inputs=inputs)
    for rows, found in read:
        for name in shapes:
            if name != "tokens":
                files[name][rows] = found[name].cpu().numpy()
        first, last = np.searchsorted(chosen, [rows[0], rows[-1] + 1])
        if last > first:
            files["tokens"][first:last] = _halved(found["tokens"][chosen[first:last] - rows[0]])
    for file in files.values():
        file.flush()


def _check_room(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    # A memory-mapped file on a full disk ends the process without a word.
    needed = sum(
        math.prod(shape) * np.dtype(_dtype(name)).itemsize for name, shape in shapes.items()
    )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StageFailure(
            f"the disk is full: an encoder's features need {needed / 1e9:.1f} GB in {folder} and "
            f"{free / 1e9:.1f} GB are free. Free some space, or let the probe keep less "
            "(probe.attentive.token_megabytes, fewer probe.blocks, probe.cache_megabytes)"
        )


def _halved(tokens: Tensor) -> np.ndarray:
    # Half precision ends at 65504; one huge value must not become infinite.
    halved: np.ndarray = tokens.float().clamp(-65504, 65504).to(torch.float16).cpu().numpy()
    return halved


def _dtype(name: str) -> type[np.floating[Any]]:
    return np.float16 if name == "tokens" else np.float32


def _open(folder: Path, described: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """The arrays of an entry; None when there is none, or it is not what was described."""
    if not folder.is_dir():
        return None
    arrays: dict[str, np.ndarray] = {}
    try:
        found = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for name, shape in described["arrays"].items():
            # Copy on write: pages are shared and read on demand, and torch may see them.
            arrays[name] = np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
            if arrays[name].shape != tuple(shape) or arrays[name].dtype != _dtype(name):
                raise ValueError(f"{name}.npy is {arrays[name].dtype} {arrays[name].shape}")
        if found != described:
            raise ValueError("manifest.json describes something else")
    except (OSError, ValueError, EOFError) as error:
        log.warning("the features in %s are damaged (%s) and made again", folder, error)
        return None
    return arrays
