"""From packed pixels and crop boxes to an encoder: the stage that takes the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines import tracking

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from contramask.boxes.box_set import BoxSet
    from contramask.data.store import Store
    from contramask.models.bundle import EncoderBundle
    from contramask.models.tokenizer_bundle import TokenizerBundle
    from contramask.results import RunInfo, StageOutput
    from contramask.train.device import LaunchConfig
    from contramask.train.pretrain_config import PretrainConfig


def pretrain_encoder(
    store: Store,
    boxes: BoxSet | None,
    tokenizer: TokenizerBundle | None,
    config: PretrainConfig,
    run: RunInfo,
    launch: LaunchConfig,
    work: Path,
) -> tuple[EncoderBundle, StageOutput, pd.DataFrame]:
    """Train one encoder; an interrupted training continues from `work`.

    The curve is returned once more, as a table of its own for `dvc plots`.
    """
    from contramask.train.launch import pretrain_on_devices

    tracker = tracking.current()
    result = pretrain_on_devices(store, boxes, config, run, launch, work, tracker, tokenizer)
    return result.bundle, result.output, result.output.tables["curve"]
