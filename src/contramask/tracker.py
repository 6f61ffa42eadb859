"""The one door through which numbers and pictures leave the library."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """What a training or an evaluation reports to; MLflow, a file and a test each supply one."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers by name at a step (optimiser steps, from 0)."""

    def figure(self, name: str, fig: Any) -> None:
        """Record a matplotlib figure under a name such as `pretrain/views`."""

    def artifact(self, path: Path) -> None:
        """Record a file."""

    def rewind(self, name: str, step: int) -> None:
        """Forget the numbers `<name>/...` of later steps: a training goes on from this one."""


class NullTracker:
    """Records nothing."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Drop the numbers."""

    def figure(self, name: str, fig: Any) -> None:
        """Drop the figure."""

    def artifact(self, path: Path) -> None:
        """Drop the file."""

    def rewind(self, name: str, step: int) -> None:
        """There is nothing to forget."""


class JsonLinesTracker:
    """Appends one JSON object a call to a file, and saves figures beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Append `{"step": ..., "time": ..., name: value, ...}`."""
        self._append({"step": step, "time": time.time(), **metrics})

    def figure(self, name: str, fig: Any) -> None:
        """Save the figure as PNG in the file's folder and note its name."""
        target = self.path.parent / f"{name.replace('/', '-')}.png"
        fig.savefig(target, dpi=120)
        self._append({"figure": target.name})

    def artifact(self, path: Path) -> None:
        """Note the file's path."""
        self._append({"artifact": str(path)})

    def rewind(self, name: str, step: int) -> None:
        """Replace the file by one without the lines that are going to be written once more.

        So is a line that a killed process left unfinished.
        """
        if not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not _is_later(line, f"{name}/", step)]
        if kept != lines:
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(kept), encoding="utf-8")
            temporary.replace(self.path)

    def _append(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _is_later(line: str, prefix: str, step: int) -> bool:
    """Whether a line is cut off, or holds numbers of this name after `step`."""
    try:
        values = json.loads(line)
    except ValueError:
        return True
    return values.get("step", 0) > step and any(key.startswith(prefix) for key in values)
