"""What the frozen features know: nearest neighbours and linear classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines import tracking

if TYPE_CHECKING:
    from pathlib import Path

    from contramask.data.store import Store
    from contramask.models.bundle import EncoderBundle
    from contramask.results import StageOutput
    from contramask.train.device import LaunchConfig
    from contramask.transfer.probe_config import ProbeConfig


def probe_encoder(
    encoder: EncoderBundle,
    store: Store,
    config: ProbeConfig,
    launch: LaunchConfig,
    features: Path,
    work: Path,
) -> StageOutput:
    """Score the frozen encoder, and the same network untrained, on labelled images."""
    from contramask.transfer.probe import run_probe

    return run_probe(encoder, store, config, launch, tracking.current(), features, work)
