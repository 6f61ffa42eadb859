"""Running checkpoints: written atomically, read only if they belong to the same run."""

import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


class ResumeRefused(ValueError):
    """A running checkpoint lies in the work folder, but belongs to a run with other settings."""


class Keeper:
    """Keeps `last.pt` in a run's work folder: tensors and plain containers only.

    `fingerprint` is everything that must be equal for continuing to make sense: configuration,
    data and box-set hash. Randomness is counter-based, so no generator state has to be kept.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = folder / "last.pt"
        self.fingerprint = json.loads(json.dumps(fingerprint, sort_keys=True))

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state under a temporary name, force it to disk, then rename it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("wb") as stream:
            torch.save({"fingerprint": self.fingerprint, **state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self.path)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The kept state, or None when there is none.

        Raises `ResumeRefused` with the differing settings if it belongs to another run, and
        `ValueError` if the file cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
        except (RuntimeError, ValueError, OSError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{self.path} cannot be read ({type(error).__name__}: is it cut off?), so no run "
                "can be continued from it; delete the file to start anew"
            ) from error
        differing = list(_differences(state["fingerprint"], self.fingerprint))
        if differing:
            listed = "\n".join(f"  - {line}" for line in differing[:20])
            raise ResumeRefused(
                f"{self.path} is the running checkpoint of another run; it differs in\n{listed}\n"
                "Set these back to continue that run, or delete the file to start anew."
            )
        return state

    def done(self) -> None:
        """Forget the running checkpoint: the run is complete."""
        self.path.unlink(missing_ok=True)


def _differences(kept: Any, current: Any, key: str = "") -> list[str]:
    if isinstance(kept, dict) and isinstance(current, dict):
        lines = []
        for name in sorted(kept.keys() | current.keys()):
            where = f"{key}.{name}" if key else name
            lines += _differences(kept.get(name), current.get(name), where)
        return lines
    return [] if kept == current else [f"{key}: {kept!r} in the checkpoint, {current!r} now"]
