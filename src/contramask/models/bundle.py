"""What people take away: encoder weights with the manifest that says what they are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from contramask.models.family import Encoder, describe, rebuild
from contramask.results import RunInfo, code_revision, today

LICENCE_NOTE = (
    "Weights belong to whoever trained them; check the licence of the images they were trained on."
)

#: Method of the encoder that never saw an image, beside which all others are measured.
ANCHOR = "random_init"


@dataclass(frozen=True)
class EncoderBundle:
    """An encoder and its manifest, stored as `encoder.safetensors` and `manifest.json`."""

    encoder: Encoder
    manifest: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write both files; tensors are contiguous float32 with timm's key names."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.encoder.state_dict().items()}
        save_file(state, folder / "encoder.safetensors", metadata={"format": "pt"})
        (folder / "encoder.safetensors").chmod(0o644)  # safetensors writes files only we can read
        text = json.dumps(self.manifest, indent=2, sort_keys=True)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "EncoderBundle":
        """Read a folder that `write` made.

        Raises `ValueError` when a file is missing or damaged, or the weights do not fit the
        manifest.
        """
        for name in ("manifest.json", "encoder.safetensors"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder} holds no encoder: {name} is missing{_hint(folder)}")
        manifest = _manifest(folder)
        try:
            state = load_file(folder / "encoder.safetensors")
        except SafetensorError as error:
            raise ValueError(f"{folder}: encoder.safetensors is damaged: {error}") from None
        encoder = rebuild(manifest["arch"])
        try:
            encoder.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{folder}: the weights do not fit the manifest: {error}") from None
        return cls(encoder, manifest)


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: manifest.json is damaged: {error}") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("arch"), dict):
        raise ValueError(f"{folder}: manifest.json says nothing about an encoder's sizes (arch)")
    return manifest


def _hint(folder: Path) -> str:
    """What to give instead: the folder around a file, or the encoders beside a wrong name."""
    if folder.is_file():
        return "; give the folder it lies in"
    beside = sorted(path.parent.name for path in folder.parent.glob("*/encoder.safetensors"))
    if not beside:
        return "; give an experiment's folder in 06_models"
    more = f" and {len(beside) - 5} more" if len(beside) > 5 else ""
    return f"; beside it there are {', '.join(beside[:5])}{more}"


def make_bundle(
    encoder: Encoder, run: RunInfo, method: str, branch: str, data: dict[str, Any]
) -> EncoderBundle:
    """Describe a trained encoder.

    `branch` says which network it is (`online` or `target`); `data` is the store's manifest, whose
    mean and std are those the encoder expects its input to be normalised with.
    """
    manifest = {
        "schema": 1,
        "experiment": run.experiment,
        "method": method,
        "branch": branch,
        "config_hash": run.config_hash,
        "seed": run.seed,
        "arch": describe(encoder),
        "mean": data["mean"],
        "std": data["std"],
        "data": data["name"],
        "data_hash": data["data_hash"],
        "code_revision": code_revision(),
        "date": today(),
        "licence": LICENCE_NOTE,
    }
    # A fresh copy: a target network is frozen, and what people take away must not be.
    return EncoderBundle(encoder.resized(encoder.image_size), manifest)


def write_beside(path: Path, manifest: Mapping[str, Any]) -> Path:
    """Write what `path` is to `<path>.manifest.json`; returns that file."""
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    beside = path.with_name(f"{path.name}.manifest.json")
    beside.write_text(text + "\n", encoding="utf-8")
    return beside


def random_init_bundle(bundle: EncoderBundle) -> EncoderBundle:
    """The same architecture with fresh weights from the same seed: the anchor row of each table."""
    arch, seed = bundle.manifest["arch"], bundle.manifest["seed"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = rebuild(arch)
    changed = {
        "experiment": f"{ANCHOR}-s{seed}",
        "method": ANCHOR,
        "branch": "none",
        "config_hash": "none",
    }
    return EncoderBundle(encoder, {**bundle.manifest, **changed})
