"""How results lie on disk. Every write appears whole or not at all, also when a run is killed."""

import atexit
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from kedro.io import AbstractDataset, DatasetError

from pipelines import previews

#: The class whose folders are experiments.
ENCODER = "contramask.models.bundle:EncoderBundle"


class DiskDataset(AbstractDataset[Any, Any]):
    """Something at a path; what `kedro viz` shows of it is in its attribute `preview`, if any."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = previews.metadata_with_layer(self._filepath, metadata)

    def _plot(self) -> dict[str, Any] | None:
        """What `dvc plots` draws of it."""
        how = (self.metadata or {}).get("dvc") or {}
        return how if how.get("as") == "plots" else None

    def _exists(self) -> bool:
        return self._filepath.exists()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class FolderDataset(DiskDataset):
    """A folder that a class of the library writes and reads.

    `kind` is `module:Class` with `value.write(folder)` and `Class.read(folder)`; the class is
    imported on first use.
    """

    def __init__(self, filepath: str, kind: str, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath, metadata)
        self._kind = kind
        self.preview = previews.preview_of_folder(self._filepath, kind)

    def load(self) -> Any:
        """Read the folder."""
        if not self._filepath.is_dir():
            raise DatasetError(
                f"{self._filepath} does not exist yet: run the stage that makes it"
                f"{self._experiments()}"
            )
        module, _, name = self._kind.partition(":")
        return getattr(import_module(module), name).read(self._filepath)

    def _experiments(self) -> str:
        """For an encoder that is not there, the experiments that have one."""
        if self._kind != ENCODER:
            return ""
        found = self._filepath.parent.glob("*/encoder.safetensors")
        names = ", ".join(sorted(n for path in found if (n := path.parent.name)[0] != "."))
        if not names:
            return " (pretrain); no experiment has an encoder yet"
        return f" (pretrain), or name an experiment that has an encoder: {names}"

    def save(self, data: Any) -> None:
        """Write beside the folder, then swap."""
        with _replaced(self._filepath) as new:
            data.write(new)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "kind": self._kind}


class OptionalFolderDataset(FolderDataset):
    """A folder that later stages can do without: it loads as None while it is not there."""

    def load(self) -> Any:
        """Read the folder, or None."""
        return super().load() if self._exists() else None


class FileDataset(DiskDataset):
    """One file whose suffix says what it holds: one of `FORMATS`."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath, metadata)
        if self._filepath.suffix not in FORMATS:
            raise ValueError(f"{filepath}: the suffix must be one of {', '.join(FORMATS)}")
        preview = previews.preview_of_file(self._filepath, self._plot())
        if preview is not None:  # kedro-viz asks whether the attribute exists
            self.preview = preview

    def load(self) -> Any:
        """Read the file."""
        if not self._filepath.is_file():
            raise DatasetError(f"{self._filepath} does not exist yet: run the stage that makes it")
        return FORMATS[self._filepath.suffix].read(self._filepath)

    def save(self, data: Any) -> None:
        """Write beside the file, then replace it."""
        with _sibling(self._filepath) as scratch:
            new = scratch / self._filepath.name
            FORMATS[self._filepath.suffix].write(data, new)
            os.replace(new, self._filepath)


class PicturesDataset(DiskDataset):
    """A folder of PNG files, in memory as encoded bytes by name."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath, metadata)
        self.preview = partial(previews.pictures, self._filepath)

    def load(self) -> dict[str, bytes]:
        """Read all pictures."""
        return {path.stem: path.read_bytes() for path in sorted(self._filepath.glob("*.png"))}

    def save(self, data: dict[str, bytes]) -> None:
        """Replace the whole folder; a `/` in a name becomes `-`."""
        with _replaced(self._filepath) as new:
            new.mkdir()
            for name, png in data.items():
                (new / f"{name.replace('/', '-')}.png").write_bytes(png)


class TablesDataset(DiskDataset):
    """A folder of CSV files, in memory as tables by name."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath, metadata)
        plot = self._plot()
        if plot:
            self.preview = partial(previews.bar_chart, self._filepath, plot["x"], plot["y"])

    def load(self) -> dict[str, Any]:
        """Read all tables."""
        return {path.stem: _read_csv(path) for path in sorted(self._filepath.glob("*.csv"))}

    def save(self, data: dict[str, Any]) -> None:
        """Replace the whole folder."""
        with _replaced(self._filepath) as new:
            new.mkdir()
            for name, table in data.items():
                table.to_csv(new / f"{name}.csv", index=False)


class PathDataset(DiskDataset):
    """The path of a folder, for library functions that look into it themselves."""

    def load(self) -> Path:
        """The path; nothing need be there."""
        return self._filepath

    def save(self, data: None) -> None:
        """Refuse: this names a place, it does not fill it."""
        raise DatasetError(f"{self._filepath} is given to nodes as a path; no node returns it")


class WorkFolderDataset(PathDataset):
    """A folder for work in progress, made when it is asked for.

    With `metadata.owner: one` it belongs to this process until that ends: two runs at once would
    overwrite each other's half-done work.
    """

    def load(self) -> Path:
        """The folder, which exists then; raises `DatasetError` while another run works in it."""
        self._filepath.mkdir(parents=True, exist_ok=True)
        if self.has_one_owner:
            _claim(self._filepath)
        return self._filepath

    @property
    def has_one_owner(self) -> bool:
        """Whether only one run at a time may work in the folder."""
        return (self.metadata or {}).get("owner") == "one"


def _claim(folder: Path) -> None:
    """Write this process into the folder's lock file, if no living one stands there."""
    import psutil

    lock = folder.with_name(f"{folder.name}.lock")
    mine = f"{platform.node()} {os.getpid()}"
    held = lock.read_text(encoding="utf-8").strip() if lock.is_file() else mine
    host, _, number = held.rpartition(" ")
    elsewhere = host not in ("", platform.node())
    if held != mine and (elsewhere or (number.isdigit() and psutil.pid_exists(int(number)))):
        raise DatasetError(
            f"another run (process {number} on {host}) works in {folder}; wait for "
            f"it, or give this one its own files (--params data=FOLDER). If it is gone, remove "
            f"{lock}"
        )
    lock.write_text(mine, encoding="utf-8")
    atexit.register(lock.unlink, missing_ok=True)


class Format(NamedTuple):
    """How one kind of file is read and written."""

    read: Callable[[Path], Any]
    write: Callable[[Any, Path], Any]


def _read_parquet(path: Path) -> Any:
    import pandas as pd

    return pd.read_parquet(path)


def _read_csv(path: Path) -> Any:
    import pandas as pd

    return pd.read_csv(path)


def _read_png(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image)


def _write_png(pixels: Any, path: Path) -> None:
    from PIL import Image

    Image.fromarray(pixels).save(path)


def _write_json(value: Any, path: Path) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


FORMATS = {
    ".parquet": Format(_read_parquet, lambda table, path: table.to_parquet(path, index=False)),
    ".csv": Format(_read_csv, lambda table, path: table.to_csv(path, index=False)),
    ".json": Format(lambda path: json.loads(path.read_text(encoding="utf-8")), _write_json),
    ".html": Format(
        lambda path: path.read_text(encoding="utf-8"),
        lambda text, path: path.write_text(text, encoding="utf-8"),
    ),
    ".png": Format(_read_png, _write_png),
}


@contextmanager
def _sibling(target: Path) -> Iterator[Path]:
    """A scratch folder on the target's own file system, where renaming is atomic."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch)


@contextmanager
def _replaced(target: Path) -> Iterator[Path]:
    """A path to write a new folder at, which takes the target's place when all went well."""
    with _sibling(target) as scratch:
        yield scratch / "new"
        if target.exists():
            target.rename(scratch / "old")
        (scratch / "new").rename(target)
