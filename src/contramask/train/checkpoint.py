"""Running checkpoints: written atomically, read only if they belong to the same run."""

import json
import logging
import os
import pickle
import shutil
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import torch

from contramask.failures import is_out_of_memory

log = logging.getLogger(__name__)


class ResumeRefused(ValueError):
    """A running checkpoint lies in the work folder, but belongs to a run with other settings."""


class Keeper:
    """Keeps `last.pt` in a run's work folder: tensors and plain containers only.

    `fingerprint` is everything that must be equal for continuing to make sense: configuration,
    data and box-set hash. Randomness is a function of seed and step, and so is the order of the
    images, so their position is the whole state of every generator. keep_last: how many running
    checkpoints stay, older ones as `last-1.pt`, `last-2.pt`; milestones: epochs after which one is
    kept for good, as `epoch-0100.pt`.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: Mapping[str, Any],
        keep_last: int = 1,
        milestones: Sequence[int] = (),
    ) -> None:
        self.folder, self.path = folder, folder / "last.pt"
        self.fingerprint = json.loads(json.dumps(fingerprint, sort_keys=True))
        self.milestones = frozenset(milestones)
        self._kept = [self.path, *(folder / f"last-{age}.pt" for age in range(1, keep_last))]

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state under a temporary name, force it to disk, then rename it.

        Raises `OSError` if there is no room or no right to write; what was kept stays as it is.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as stream:
                _write({"fingerprint": self.fingerprint, **state}, stream)
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)  # it may be what fills the disk
            raise
        for newer, older in reversed(list(pairwise(self._kept))):
            if newer.exists():
                newer.replace(older)
        temporary.replace(self.path)
        _sync_folder(self.folder)

    def keep_milestone(self, epoch: int) -> None:
        """Keep the newest checkpoint for good."""
        target = self.folder / f"epoch-{epoch:04}.pt"
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(self.path)  # no second copy until `last.pt` is replaced
        except OSError:  # a file system without links
            shutil.copyfile(self.path, target)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The newest state that can be read, or None when nothing is kept.

        Raises `ResumeRefused` with the differing settings if it belongs to another run, and
        `ValueError` if no kept file can be read.
        """
        # Older files than this keeper would leave may lie there from a run that kept more.
        found = sorted(self.folder.glob("last*.pt"), key=lambda p: (len(p.name), p.name))
        broken: list[str] = []
        for path in found:
            try:
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            except (RuntimeError, ValueError, OSError, EOFError, pickle.UnpicklingError) as error:
                if is_out_of_memory(error):
                    raise
                broken.append(f"{path} cannot be read ({type(error).__name__}: is it cut off?)")
                continue
            for line in broken:
                log.warning("%s; the run is continued from %s", line, path.name)
            return self._own(state, path)
        if broken:
            raise ValueError(
                f"{'; '.join(broken)}, so no run can be continued from it; "
                "delete the file to start anew"
            )
        return None

    def _own(self, state: dict[str, Any], path: Path) -> dict[str, Any]:
        differing = list(_differences(state["fingerprint"], self.fingerprint))
        if differing:
            listed = "\n".join(f"  - {line}" for line in differing[:20])
            raise ResumeRefused(
                f"{path} is the running checkpoint of another run; it differs in\n{listed}\n"
                "Set these back to continue that run, or delete the file to start anew."
            )
        return state


def _write(state: Mapping[str, Any], stream: BinaryIO) -> None:
    try:
        torch.save(state, stream)
    except RuntimeError as error:  # torch's own words for what the system refused
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _sync_folder(folder: Path) -> None:
    """Force the renaming to disk, where the system lets one."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _differences(kept: Any, current: Any, key: str = "") -> list[str]:
    if isinstance(kept, dict) and isinstance(current, dict):
        lines = []
        for name in sorted(kept.keys() | current.keys()):
            where = f"{key}.{name}" if key else name
            lines += _differences(kept.get(name), current.get(name), where)
        return lines
    return [] if kept == current else [f"{key}: {kept!r} in the checkpoint, {current!r} now"]
