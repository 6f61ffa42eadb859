"""What a stage leaves behind: tidy result rows, tables, arrays and facts in one folder."""

import contextlib
import datetime
import importlib.metadata
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

#: Columns of every results table; one row is one number.
COLUMNS = [
    "experiment",
    "method",
    "encoder",
    "data",
    "split",
    "protocol",
    "readout",
    "metric",
    "value",
    "seed",
    "config_hash",
    "code_revision",
    "date",
]

#: Packages whose version may change a number.
PACKAGES = ("contramask", "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn")


@lru_cache(maxsize=1)
def code_revision() -> str:
    """The git commit this code runs from, `+` appended when files differ; `unknown` without git."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def made_with() -> dict[str, Any]:
    """The command, the versions of what computes, and the time (UTC): facts of any stage."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": versions,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def today() -> str:
    """Today's date, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def result_row(
    manifest: Mapping[str, Any], split: str, protocol: str, readout: str, metric: str, value: float
) -> dict[str, Any]:
    """One row of the results table for the encoder that `manifest` describes.

    `data` is what it was trained on; `StageOutput.measured_on` says where it was measured.
    Percentages are stored as percentages (0-100), the unit the field prints.
    """
    return {
        "experiment": manifest["experiment"],
        "method": manifest["method"],
        "encoder": encoder_label(manifest.get("made_from", manifest["arch"])),
        "data": manifest["data"],
        "split": split,
        "protocol": protocol,
        "readout": readout,
        "metric": metric,
        "value": float(value),
        "seed": int(manifest["seed"]),
        "config_hash": manifest["config_hash"],
        "code_revision": code_revision(),
        "date": today(),
    }


def encoder_label(arch: Mapping[str, Any]) -> str:
    """What an encoder is called in results: `BEiT 128x6/4, 4 heads, MLP 4, 32x32 px`.

    Width x depth / patch size come first, `BEiT` before them if it is one; what `arch` does not say
    is left out. A measurement is compared with the randomly initialised network of the same label.
    """
    kind = "BEiT " if arch.get("kind") == "beit" else ""
    parts = [f"{kind}{arch['embed_dim']}x{arch['depth']}/{arch['patch_size']}"]
    if "num_heads" in arch:
        parts.append(f"{arch['num_heads']} heads")
    if "mlp_ratio" in arch.get("config", {}):
        parts.append(f"MLP {arch['config']['mlp_ratio']:g}")
    if "image_size" in arch:
        parts.append(f"{'x'.join(str(side) for side in arch['image_size'])} px")
    return ", ".join(parts)


class _JsonFolder(Mapping[str, Any]):
    """The JSON files of a folder by name, each read when it is asked for: they may be large."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Any:
        path = self.folder / f"{name}.json"
        if not path.is_file():
            raise KeyError(name)
        return json.loads(path.read_text(encoding="utf-8"))

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in sorted(self.folder.glob("*.json")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(frozen=True)
class StageOutput:
    """Everything one stage of one experiment produced, from which all figures are drawn.

    On disk: `results.parquet`, `tables/<name>.parquet`, `arrays.npz`, `facts.json`, and, where
    there are some, `files/<name>.json`: what other tools read too, such as COCO's results.
    Array names may contain one `/` (`mae/confusion`); names of tables and files may not.
    """

    rows: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def skipped(cls, stage: str, reason: str) -> "StageOutput":
        """The output of a stage that could not apply to these data, and why."""
        return cls(facts={"stage": stage, "skipped": reason})

    def measured_on(self, data: str) -> "StageOutput":
        """The same, its rows naming the data measured on: an encoder may come from elsewhere."""
        return replace(self, rows=self.rows.assign(data=data))

    def write(self, folder: Path) -> None:
        """Write all parts into a new folder, or in place of what an earlier call wrote there.

        Raises `ValueError` for an array of Python objects, which only pickle could hold.
        """
        files = dict(self.files)  # read before they are removed, should they lie in this folder
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        for old in [*(folder / "tables").glob("*.parquet"), *(folder / "files").glob("*.json")]:
            old.unlink()
        pd.DataFrame(self.rows, columns=COLUMNS).to_parquet(folder / "results.parquet", index=False)
        for name, table in self.tables.items():
            table.to_parquet(folder / "tables" / f"{name}.parquet", index=False)
        # np.savez puts no time stamp into the archive's members, so equal outputs are equal bytes.
        arrays = {name.replace("/", "|"): array for name, array in self.arrays.items()}
        np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)
        text = json.dumps(self.facts, indent=2, sort_keys=True)
        (folder / "facts.json").write_text(text + "\n", encoding="utf-8")
        if files:
            (folder / "files").mkdir(exist_ok=True)
        for name, content in files.items():
            text = json.dumps(content, allow_nan=False, separators=(",", ":"))
            (folder / "files" / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "StageOutput":
        """Read a folder that `write` made; raises `FileNotFoundError` when it is none."""
        with np.load(folder / "arrays.npz", allow_pickle=False) as archive:
            arrays = {name.replace("|", "/"): archive[name] for name in archive.files}
        tables = {p.stem: pd.read_parquet(p) for p in sorted((folder / "tables").glob("*.parquet"))}
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        rows = pd.read_parquet(folder / "results.parquet")
        return cls(rows, tables, arrays, facts, _JsonFolder(folder / "files"))


@dataclass(frozen=True)
class RunInfo:
    """Which experiment a stage belongs to: its name, the hash of its configuration, its seed."""

    experiment: str
    config_hash: str
    seed: int
