"""What the encoder reaches when all of it is trained on labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines import tracking

if TYPE_CHECKING:
    from pathlib import Path

    from contramask.data.store import Store
    from contramask.models.bundle import EncoderBundle
    from contramask.results import StageOutput
    from contramask.train.device import LaunchConfig
    from contramask.transfer.finetune_config import FinetuneConfig


def finetune_encoder(
    encoder: EncoderBundle, store: Store, config: FinetuneConfig, launch: LaunchConfig, work: Path
) -> StageOutput:
    """Train the whole encoder on labels, and the same network from scratch."""
    from contramask.transfer.finetune import run_finetune

    return run_finetune(encoder, store, config, launch, tracking.current(), work)
