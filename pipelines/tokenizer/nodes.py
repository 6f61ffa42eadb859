"""From packed pixels to image tokens, which some methods predict in place of pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines import tracking

if TYPE_CHECKING:
    from pathlib import Path

    from contramask.data.store import Store
    from contramask.models.tokenizer_bundle import TokenizerBundle
    from contramask.results import RunInfo, StageOutput
    from contramask.train.device import LaunchConfig
    from contramask.train.pretrain_config import PretrainConfig
    from contramask.train.tokenizer import TokenizerConfig


def make_tokenizer(
    store: Store,
    config: TokenizerConfig,
    pretrain: PretrainConfig,
    run: RunInfo,
    launch: LaunchConfig,
    work: Path,
) -> tuple[TokenizerBundle, StageOutput]:
    """Train a tokenizer for the pre-training's patches, or say that its method needs none."""
    from contramask.train.tokenizer import train_tokenizer

    result = train_tokenizer(store, config, pretrain, run, launch, work, tracking.current())
    return result.bundle, result.output
