"""Semantic segmentation on top of the encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines import tracking

if TYPE_CHECKING:
    from pathlib import Path

    from contramask.data.store import Store
    from contramask.models.bundle import EncoderBundle
    from contramask.results import StageOutput
    from contramask.train.device import LaunchConfig
    from contramask.transfer.segment_config import SegmentationConfig


def segment_images(
    encoder: EncoderBundle,
    store: Store,
    config: SegmentationConfig,
    launch: LaunchConfig,
    work: Path,
) -> StageOutput:
    """Train segmentation heads on the encoder and score them on the val images."""
    from contramask.transfer.segment import run_segmentation

    return run_segmentation(encoder, store, config, launch, tracking.current(), work)
