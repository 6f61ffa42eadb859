"""Object detection and instance segmentation on top of the encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines import tracking

if TYPE_CHECKING:
    from pathlib import Path

    from contramask.data.store import Store
    from contramask.models.bundle import EncoderBundle
    from contramask.results import StageOutput
    from contramask.train.device import LaunchConfig
    from contramask.transfer.detect import DetectionConfig


def detect_objects(
    encoder: EncoderBundle, store: Store, config: DetectionConfig, launch: LaunchConfig, work: Path
) -> StageOutput:
    """Train a Mask R-CNN on the encoder and score boxes and masks on the val images."""
    from contramask.transfer.detect import run_detection

    return run_detection(encoder, store, config, launch, tracking.current(), work)
