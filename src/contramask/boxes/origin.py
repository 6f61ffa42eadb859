"""What a box set was made from and how: the part of its manifest that is known beforehand."""

import hashlib
from pathlib import Path
from typing import Any

from contramask import __version__
from contramask.boxes.box_set import SCHEMA
from contramask.boxes.config import BoxConfig
from contramask.boxes.encoder_maps import ENCODER_MAPS, RELATIVE, pick_device
from contramask.boxes.rules import RuleConfig
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.typed import to_plain

_KINDS = {"full": "constant", "center_half": "constant", "gt": "ground_truth"}


def origin(
    store: Store, config: BoxConfig, rule: RuleConfig | None, bundle: EncoderBundle | None
) -> dict[str, Any]:
    """Data, method, rule and gates as plain values; of an encoder also what identifies it."""
    kinds = _KINDS | dict.fromkeys(ENCODER_MAPS, "encoder")
    return {
        "schema": SCHEMA,
        "data": store.manifest["name"],
        "data_hash": store.data_hash,
        "split": "train",
        "n_images": len(store["train"]),
        "image_size": list(store.manifest["image_size"]),
        "method": config.method,
        "producer": {"kind": kinds.get(config.method, "classical"), "grid": config.grid},
        "encoder": None if config.encoder is None else config.encoder.name,
        "checkpoint": None if bundle is None else _checkpoint(config, bundle),
        "deal": config.deal,
        "rule": None if rule is None else to_plain(rule),
        "crop": to_plain(config.crops),
        "gates": to_plain(config.gates),
        "on_alarm": config.on_alarm,
        "code_version": __version__,
        "parent": None,
    }


def _checkpoint(config: BoxConfig, bundle: EncoderBundle) -> dict[str, Any]:
    """Which weights made the maps, and what was read from them."""
    known = ("experiment", "method", "branch", "config_hash", "seed", "data_hash", "mean", "std")
    weights = Path(config.encoder or "") / "encoder.safetensors"
    relative = config.method in RELATIVE
    return {
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        **{name: bundle.manifest.get(name) for name in known},
        "input_size": list(bundle.encoder.image_size),
        "patch_size": bundle.encoder.patch_size,
        "block": config.block or len(bundle.encoder.blocks),
        "baseline": config.baseline if relative else None,
        "mirrored": True,
        "precision": pick_device()[1],
    }
