"""The packed data set: memory-mapped uint8 pixels and annotations in one folder, with a hash."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from contramask.data.jpeg import JpegImages
from contramask.data.objects import DTYPES, instance_mask

SCHEMA = 1
#: Value of `semantic` where no class is given; no metric counts these pixels.
IGNORED = 255
_RAW = {"kind": "raw"}
_BYTES_AT_ONCE = 1 << 24
_REBUILD = "run the dataset stage again to rebuild the store"
_KEYS = (
    *("schema", "name", "image_size", "channels", "mean", "std", "splits", "data_hash"),
    *("classes", "semantic_classes", "instance_classes", "instance_masks"),
)


class StoreSplit:
    """One split of a store: images and annotations by row number, nothing copied until asked for.

    Sending it to another process sends the folder's name, not the pixels; there `threads` is 1.
    They decode the images of a JPEG store; 0: as many as there are cores.
    """

    def __init__(self, folder: Path, name: str, manifest: dict[str, Any], threads: int = 0) -> None:
        self.folder, self.name, self.manifest = folder, name, manifest
        self.count = int(manifest["splits"][name])
        self.height, self.width = manifest["image_size"]
        shape = (self.count, self.height, self.width)
        # uint8 (N, H, W, C), read-only, on disk
        self.images = _images(folder, (*shape, manifest["channels"]), manifest, threads)
        # int64 (N,), -1 where an image has no label
        self.labels = np.array(_load(folder / "labels.npy", shape[:1], np.int64))
        self.semantic: np.ndarray | None = None  # uint8 (N, H, W)
        if manifest["semantic_classes"]:
            self.semantic = _load(folder / "semantic.npy", shape, np.uint8)
        self._check_instances_exist()

    def __reduce__(self) -> tuple[Any, ...]:
        return StoreSplit, (self.folder, self.name, self.manifest, 1)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> np.ndarray:
        """One image, uint8 (H, W, C)."""
        return np.array(self.images[index])

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The images of these rows in this order, uint8 (B, H, W, C), in memory."""
        return np.asarray(self.images[np.asarray(indices, dtype=np.int64)])

    @cached_property
    def ids(self) -> list[str]:
        """The images' ids, in row order."""
        path = self.folder / "ids.json"
        found = _read_json(path)
        if not isinstance(found, list) or len(found) != self.count:
            raise ValueError(f"{path} does not list {self.count} images; {_REBUILD}")
        return [str(name) for name in found]

    @cached_property
    def instances(self) -> pd.DataFrame | None:
        """The objects of all images, sorted by image; None when the source has none."""
        if not self.manifest["instance_classes"]:
            return None
        path = self.folder / "instances.parquet"
        try:
            table = pd.read_parquet(path)[list(DTYPES)].astype(DTYPES)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}); {_REBUILD}") from error
        return table.sort_values("image", kind="stable", ignore_index=True)

    def instances_of(
        self, index: int
    ) -> list[tuple[int, tuple[float, float, float, float], np.ndarray, bool]]:
        """The objects of one image: (category, box, mask bool (H, W), iscrowd).

        Where the source gave a box only (`store.has_instance_masks` is False) the mask is the
        filled box.
        """
        if self.instances is None:
            return []
        first, last = np.searchsorted(self._image_column, [index, index + 1])
        found = []
        for row in self.instances.iloc[int(first) : int(last)].itertuples(index=False):
            box = (float(row.x0), float(row.y0), float(row.x1), float(row.y1))
            mask = instance_mask(row, self.height, self.width)
            found.append((int(row.category), box, mask, bool(row.iscrowd)))
        return found

    @cached_property
    def _image_column(self) -> np.ndarray:
        return np.array([]) if self.instances is None else self.instances["image"].to_numpy()

    def _check_instances_exist(self) -> None:
        path = self.folder / "instances.parquet"
        if not self.manifest["instance_classes"]:
            return
        if not path.is_file():
            raise ValueError(f"{path} is missing; {_REBUILD}")
        with path.open("rb") as stream:
            stream.seek(-min(4, path.stat().st_size), os.SEEK_END)
            if stream.read() != b"PAR1":  # how every whole parquet file ends
                raise ValueError(f"{path} is cut off; {_REBUILD}")


class Store:
    """A folder with `manifest.json` and one sub-folder a split (`store["train"]`)."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.splits = {n: StoreSplit(folder / n, n, manifest) for n in manifest["splits"]}
        self._is_draft = False

    @classmethod
    def read(cls, folder: Path) -> "Store":
        """Open a store; raises `ValueError` naming the file that is missing or damaged."""
        path = Path(folder) / "manifest.json"
        manifest = _read_json(path)
        lacking = [key for key in _KEYS if not isinstance(manifest, dict) or key not in manifest]
        if lacking:
            raise ValueError(f"{path} lacks {', '.join(lacking)}; {_REBUILD}")
        if manifest["schema"] != SCHEMA:
            raise ValueError(
                f"{path} has schema {manifest['schema']}, this version reads {SCHEMA}; {_REBUILD}"
            )
        return cls(Path(folder), manifest)

    @classmethod
    def read_draft(cls, folder: Path) -> "Store":
        """Open a freshly built store in a working folder: the first `write` moves it from there."""
        store = cls.read(folder)
        store._is_draft = True
        return store

    def __getitem__(self, split: str) -> StoreSplit:
        if split not in self.splits:
            there = ", ".join(self.splits)
            raise ValueError(f"the store {self.folder} has no split {split!r}; it has {there}")
        return self.splits[split]

    def __contains__(self, split: object) -> bool:
        return split in self.splits

    @property
    def has_labels(self) -> bool:
        """Whether images have a class."""
        return bool(self.manifest["classes"])

    @property
    def has_semantic(self) -> bool:
        """Whether images have a class for each pixel."""
        return bool(self.manifest["semantic_classes"])

    @property
    def has_instances(self) -> bool:
        """Whether images have objects with boxes."""
        return bool(self.manifest["instance_classes"])

    @property
    def has_instance_masks(self) -> bool:
        """Whether the objects have masks of their own, not only boxes."""
        return bool(self.manifest["instance_masks"])

    @property
    def num_classes(self) -> int:
        """Number of image classes, 0 when unlabelled."""
        return len(self.manifest["classes"])

    @property
    def data_hash(self) -> str:
        """Hash of everything in the store, 16 hex digits."""
        return str(self.manifest["data_hash"])

    def verify(self) -> None:
        """Read everything; raises `ValueError` unless it is what the store was built with."""
        found = content_hash(self.folder, self.manifest)
        if found != self.data_hash:
            raise ValueError(
                f"{self.folder} was changed after it was built: its content hashes to {found}, its"
                f" manifest says {self.data_hash}; {_REBUILD}"
            )

    def write(self, folder: Path) -> None:
        """Put the store at `folder`, replacing what is there; readers see the old or the new one.

        A draft is moved and then lives at `folder`; any other store is copied.
        """
        folder = Path(folder)
        if folder.exists() and folder.resolve() == self.folder.resolve():
            return
        folder.parent.mkdir(parents=True, exist_ok=True)
        incoming = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
        (shutil.move if self._is_draft else shutil.copytree)(self.folder, incoming)
        outgoing = incoming.with_name(incoming.name + "-old")
        if folder.exists():
            os.replace(folder, outgoing)
        os.replace(incoming, folder)
        shutil.rmtree(outgoing, ignore_errors=True)
        if self._is_draft:
            moved = Store.read(folder)
            self.folder, self.splits, self._is_draft = moved.folder, moved.splits, False


def content_hash(folder: Path, manifest: dict[str, Any]) -> str:
    """16 hex digits over the manifest (its own hash left out), pixels, labels and annotations."""
    plain = {key: value for key, value in manifest.items() if key != "data_hash"}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(manifest["splits"]):
        split = StoreSplit(folder / name, name, manifest)
        digest.update(json.dumps([name, split.ids]).encode())
        digest.update(split.labels.tobytes())
        is_jpeg = isinstance(split.images, JpegImages)
        pixels = [split.images.offsets, split.images.blob] if is_jpeg else [split.images]
        for array in (*pixels, split.semantic):
            if array is not None:
                _update(digest, array)
        if split.instances is not None:
            # As text: parquet bytes differ between library versions.
            digest.update(split.instances.to_csv(index=False).encode())
    return digest.hexdigest()[:16]


def _update(digest: Any, array: np.ndarray) -> None:
    rows = max(1, _BYTES_AT_ONCE * len(array) // max(array.nbytes, 1))
    for start in range(0, len(array), rows):
        digest.update(array[start : start + rows].tobytes())


def _images(
    folder: Path, shape: tuple[int, int, int, int], manifest: dict[str, Any], threads: int
) -> Any:
    """The split's pixels, an array or `JpegImages`, which is indexed as one."""
    kept = manifest.get("pixels", _RAW)
    if kept == _RAW:
        return _load(folder / "images.npy", shape, np.uint8)
    if kept.get("kind") != "jpeg":
        raise ValueError(f"{folder} keeps pixels as {kept}, which this version cannot read")
    try:
        return JpegImages(folder, shape, kept["fit"], threads)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{folder} is missing files or damaged ({error}); {_REBUILD}") from error


def _load(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); {_REBUILD}") from error
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(
            f"{path} holds {array.dtype} {array.shape}, the manifest says"
            f" {np.dtype(dtype)} {shape}; {_REBUILD}"
        )
    return array


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); {_REBUILD}") from error
