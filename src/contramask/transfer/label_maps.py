"""Class maps as PNG files in a folder or a ZIP archive, compared pair by pair."""

import io
import posixpath
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contramask.progress import track
from contramask.transfer.metrics import confusion_with_gaps

#: Pillow's modes with one whole number a pixel; palette images (P) hold their indices.
_MODES = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L")
_SHOWN = 5
_UNREADABLE = (OSError, SyntaxError, zipfile.BadZipFile, Image.DecompressionBombError)


class LabelMaps:
    """The PNG files of a folder (nested) or ZIP archive, by name inside their common folder.

    Raises `ValueError` when there is none; hidden files and other kinds of files are not looked at.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._readers = _from_folder(path) if path.is_dir() else _from_archive(path)
        if not self._readers:
            raise ValueError(f"{path} holds no PNG files; give a folder or ZIP of class maps")

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._readers)

    def read(self, name: str) -> Tensor:
        """One class map, int64 (H, W); raises `ValueError` for a file that is none."""
        where = f"{self.path}: {name}"
        try:
            with Image.open(io.BytesIO(self._readers[name]())) as image:
                if image.mode not in _MODES:
                    raise ValueError(
                        f"{where} is in {image.mode} colours; a class map holds one class number a "
                        "pixel (grey or palette PNG)"
                    )
                return torch.from_numpy(np.asarray(image).astype(np.int64))
        except _UNREADABLE as error:
            raise ValueError(f"{where} cannot be read: {error}") from None


def confusion_of_maps(
    truth: LabelMaps, predicted: LabelMaps, num_classes: int, ignore: int
) -> Tensor:
    """Pixels of all maps by (true, predicted) class, (K, K+1), see `confusion_with_gaps`.

    Raises `ValueError` naming the file when one is missing, extra, of another shape than its
    partner, or holds a value that is neither a class nor `ignore`.
    """
    _check_same_names(truth, predicted)
    total = torch.zeros(num_classes, num_classes + 1, dtype=torch.int64)
    for name in track(truth.names, "comparing class maps", len(truth.names)):
        true, pred = truth.read(name), predicted.read(name)
        if true.shape != pred.shape:
            raise ValueError(
                f"{name} has {pred.shape[0]}x{pred.shape[1]} pixels (rows x columns) in "
                f"{predicted.path}, but {true.shape[0]}x{true.shape[1]} in {truth.path}"
            )
        counted = true != ignore
        _check_values(true[counted], num_classes, ignore, f"{truth.path}: {name}")
        _check_values(pred[counted], num_classes, ignore, f"{predicted.path}: {name}")
        total += confusion_with_gaps(true, pred, num_classes, ignore)
    if not total.any():
        raise ValueError(f"every pixel of {truth.path} is {ignore}, the ignored value")
    return total


def _from_folder(path: Path) -> dict[str, Callable[[], bytes]]:
    found = [p for p in path.rglob("*") if p.suffix.lower() == ".png" and p.is_file()]
    names = {p.relative_to(path).as_posix(): p.read_bytes for p in found}
    return _inside_common_folder(names)


def _from_archive(path: Path) -> dict[str, Callable[[], bytes]]:
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a folder or ZIP archive of PNG files")
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is neither a folder nor a ZIP archive") from None

    def reader(member: str) -> Callable[[], bytes]:
        return lambda: archive.read(member)

    members = [m for m in archive.namelist() if m.lower().endswith(".png")]
    return _inside_common_folder({m: reader(m) for m in members})


def _inside_common_folder(
    files: dict[str, Callable[[], bytes]],
) -> dict[str, Callable[[], bytes]]:
    """Names without the folders that all share, so that masks/a.png and a.png meet."""
    kept = {name: read for name, read in files.items() if not _is_hidden(name)}
    if not kept:
        return {}
    common = posixpath.commonpath([posixpath.dirname(name) for name in kept])
    return {posixpath.relpath(name, common or "."): read for name, read in kept.items()}


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _check_same_names(truth: LabelMaps, predicted: LabelMaps) -> None:
    wanted, given = set(truth.names), set(predicted.names)
    complaints = []
    if wanted - given:
        complaints.append(f"{predicted.path} lacks {_listed(wanted - given)}")
    if given - wanted:
        complaints.append(f"{predicted.path} holds {_listed(given - wanted)} without ground truth")
    if complaints:
        raise ValueError(f"{'; '.join(complaints)}; each file of {truth.path} needs one partner")


def _listed(names: set[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(sorted(names)[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _check_values(values: Tensor, num_classes: int, ignore: int, where: str) -> None:
    wrong = values[((values < 0) | (values >= num_classes)) & (values != ignore)]
    if len(wrong):
        raise ValueError(
            f"{where} holds the value {int(wrong[0])}, which is neither a class "
            f"(0..{num_classes - 1}) nor {ignore}, the ignored value; see --num-classes and "
            "--ignore"
        )
