"""How results lie on disk. Every write appears whole or not at all, also when a run is killed."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from kedro.io import AbstractDataset, DatasetError


class FolderDataset(AbstractDataset[Any, Any]):
    """A folder that a class of the library writes and reads.

    `kind` is `module:Class` with `value.write(folder)` and `Class.read(folder)`; the class is
    imported on first use.
    """

    def __init__(self, filepath: str, kind: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self._kind = kind
        self.metadata = metadata

    def load(self) -> Any:
        """Read the folder."""
        if not self._filepath.is_dir():
            raise DatasetError(f"{self._filepath} does not exist yet: run the stage that makes it")
        module, _, name = self._kind.partition(":")
        return getattr(import_module(module), name).read(self._filepath)

    def save(self, data: Any) -> None:
        """Write beside the folder, then swap."""
        with _replaced(self._filepath) as new:
            data.write(new)

    def _exists(self) -> bool:
        return self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath), "kind": self._kind}


class OptionalFolderDataset(FolderDataset):
    """A folder that later stages can do without: it loads as None while it is not there."""

    def load(self) -> Any:
        """Read the folder, or None."""
        return super().load() if self._exists() else None


class FileDataset(AbstractDataset[Any, Any]):
    """One file whose suffix says what it holds: one of `FORMATS`."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        if self._filepath.suffix not in FORMATS:
            raise ValueError(f"{filepath}: the suffix must be one of {', '.join(FORMATS)}")
        self.metadata = metadata

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

    def _exists(self) -> bool:
        return self._filepath.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class PicturesDataset(AbstractDataset[dict[str, bytes], dict[str, bytes]]):
    """A folder of PNG files, in memory as encoded bytes by name."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> dict[str, bytes]:
        """Read all pictures."""
        return {path.stem: path.read_bytes() for path in sorted(self._filepath.glob("*.png"))}

    def save(self, data: dict[str, bytes]) -> None:
        """Replace the whole folder; a `/` in a name becomes `-`."""
        with _replaced(self._filepath) as new:
            new.mkdir()
            for name, png in data.items():
                (new / f"{name.replace('/', '-')}.png").write_bytes(png)

    def _exists(self) -> bool:
        return self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class TablesDataset(AbstractDataset[dict[str, Any], dict[str, Any]]):
    """A folder of CSV files, in memory as tables by name."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        """Read all tables."""
        return {path.stem: _read_csv(path) for path in sorted(self._filepath.glob("*.csv"))}

    def save(self, data: dict[str, Any]) -> None:
        """Replace the whole folder."""
        with _replaced(self._filepath) as new:
            new.mkdir()
            for name, table in data.items():
                table.to_csv(new / f"{name}.csv", index=False)

    def _exists(self) -> bool:
        return self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class PathDataset(AbstractDataset[None, Path]):
    """The path of a folder, for library functions that look into it themselves."""

    def __init__(self, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """The path; nothing need be there."""
        return self._filepath

    def save(self, data: None) -> None:
        """Refuse: this names a place, it does not fill it."""
        raise DatasetError(f"{self._filepath} is given to nodes as a path; no node returns it")

    def _exists(self) -> bool:
        return self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class WorkFolderDataset(PathDataset):
    """A folder for work in progress, made when it is asked for."""

    def load(self) -> Path:
        """The folder, which exists then."""
        self._filepath.mkdir(parents=True, exist_ok=True)
        return self._filepath


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
