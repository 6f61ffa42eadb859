"""What segmentation and detection share: which images, at which size, trained how."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from contramask.data.loader import Batch, ImageLoader, Subset
from contramask.data.store import StoreSplit
from contramask.data.views import whole_images
from contramask.models.bundle import EncoderBundle
from contramask.models.family import Encoder, describe, for_tuning, set_drop_path
from contramask.results import COLUMNS, StageOutput
from contramask.train.device import Machine
from contramask.train.loop import BatchSource, TrainPlan, fit
from contramask.train.optim import adamw
from contramask.train.schedule import warmup_cosine, warmup_poly, warmup_steps
from contramask.transfer.features import Normalised
from contramask.transfer.running import Named
from contramask.typed import STRICT

Size = tuple[int, int]


@dataclass(frozen=True, config=STRICT)
class TuneConfig:
    """How a dense head, and the encoder under it, is trained: AdamW, warm-up, a falling rate.

    Each task has its own defaults, in a subclass.
    """

    epochs: int = Field(default=4, ge=1)
    batch_size: int = Field(default=32, ge=2)
    lr: float = Field(default=1e-3, gt=0)  # the peak rate itself, not per 256 images
    weight_decay: float = Field(default=0.05, ge=0)
    layer_decay: float = Field(default=0.75, gt=0, le=1)  # 1: all as fast as the head
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    warmup: float = Field(default=0.1, ge=0, lt=1)  # share of all steps
    #: Half a cosine; a straight line (mmseg's ADE20K); two drops by ten (ViTDet's COCO).
    schedule: Literal["cosine", "poly", "steps"] = "cosine"
    clip_grad: float | None = Field(default=1.0, gt=0)


class TargetLoader:
    """An `ImageLoader` whose batches also carry what a dense task is to learn.

    add_targets is given the batch's row numbers beside it: asked of the device, they would be
    waited for.
    """

    def __init__(
        self, loader: ImageLoader, add_targets: Callable[[Batch, np.ndarray], Batch]
    ) -> None:
        self.loader, self.add_targets = loader, add_targets
        self.batch_size, self.steps_per_epoch = loader.batch_size, loader.steps_per_epoch

    @property
    def tolerated_wait(self) -> float:
        """Share of the time that these batches may cost without a word."""
        return self.loader.tolerated_wait

    @property
    def advice(self) -> str:
        """What to do when training waits for these batches."""
        return (
            "images and what is to be learnt of them are moved and cut between two steps; smaller "
            "images, fewer objects or no jitter cost less"
        )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on, on the device."""
        parts = self.loader.parts(epoch, start)
        for batch, rows in zip(self.loader.epoch(epoch, start), parts, strict=True):
            yield self.add_targets(batch, rows)


def some(split: StoreSplit, limit: int | None) -> Subset:
    """At most `limit` images of a split, spread evenly over it."""
    return Subset(split, spread(len(split), limit))


def spread(count: int, limit: int | None) -> np.ndarray:
    """`limit` row numbers out of `count`, ascending, all when there are no more than that.

    Drawn at random but always the same: an even stride would meet only some classes where they
    take turns.
    """
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[:limit])


def enlarged(bundle: EncoderBundle, stored: Size, upscale: float) -> EncoderBundle:
    """The encoder made for stored images (rows, columns) shown `upscale` times larger.

    Position embeddings are resampled. Raises `ValueError` when that is no whole number of patches.
    """
    rows, cols = stored
    patch = bundle.encoder.patch_size
    size = (round(rows * upscale), round(cols * upscale))
    if size[0] % patch or size[1] % patch or min(size) < patch:
        raise ValueError(
            f"upscale {upscale} makes {rows}x{cols} px into {size[0]}x{size[1]} px, which patches "
            f"of {patch} px do not fill; choose one that gives multiples of {patch}"
        )
    return made_for(bundle, size, "upscale")


def made_for(bundle: EncoderBundle, size: Size, key: str) -> EncoderBundle:
    """The encoder for images of `size` px (rows, columns), positions resampled.

    Results still call it by the sizes it was trained with (`made_from`). key: the setting the size
    came from, for the error. Raises `ValueError` when patches do not fill such images.
    """
    patch = bundle.encoder.patch_size
    if size[0] % patch or size[1] % patch:
        raise ValueError(
            f"{key}: an encoder with patches of {patch} px cannot read {size[0]}x{size[1]} px; "
            f"give multiples of {patch}"
        )
    encoder = bundle.encoder.resized(size)
    made_from = bundle.manifest.get("made_from", bundle.manifest["arch"])
    manifest = {**bundle.manifest, "arch": describe(encoder), "made_from": made_from}
    return EncoderBundle(encoder, manifest)


def tunable(encoder: Encoder, drop_path: float) -> Encoder:
    """A copy of the encoder to fine-tune: positions trained too, drop path rising with depth."""
    copy = for_tuning(encoder)
    set_drop_path(copy.blocks, drop_path)
    return copy


def tune(
    model: nn.Module,
    source: BatchSource,
    groups: list[dict[str, Any]],
    config: TuneConfig,
    machine: Machine,
    named: Named,
) -> pd.DataFrame:
    """Train `model` on `source` as `config` says, through the one loop; returns its curve."""
    total = config.epochs * source.steps_per_epoch
    plan = TrainPlan(
        name=named.name,
        epochs=config.epochs,
        optimizer=adamw(groups, config.lr, betas=(0.9, 0.999)),
        factor_at=partial(_factor, config.schedule, total, ceil(config.warmup * total)),
        machine=machine,
        seed=named.seed,
        clip_grad=config.clip_grad,
        log_every=max(min(20, total // 10), 1),
    )
    return fit(model, source, plan, named.tracker, named.keeper)


_SCHEDULES = {"cosine": warmup_cosine, "poly": warmup_poly, "steps": warmup_steps}


def _factor(schedule: str, total: int, warmup: int, step: int) -> float:
    return _SCHEDULES[schedule](step + 1, total, warmup)  # the first step is not at rate 0


def normalise(pixels: Tensor, inputs: Normalised) -> Tensor:
    """uint8 (B, H, W, C) on any device to what the encoder reads, float (B, C, rows, cols)."""
    return (whole_images(pixels.to(inputs.device), inputs.size) - inputs.mean) / inputs.std


def chunks(count: int, size: int) -> list[np.ndarray]:
    """Row numbers 0..count-1 in consecutive chunks of at most `size`."""
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def joined(parts: Sequence[StageOutput], facts: dict[str, Any]) -> StageOutput:
    """The rows, tables, arrays and files of all parts in one output."""
    frames = [part.rows for part in parts if len(part.rows)]
    tables = {name: table for part in parts for name, table in part.tables.items()}
    arrays = {name: array for part in parts for name, array in part.arrays.items()}
    files = {name: content for part in parts for name, content in part.files.items()}
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=COLUMNS)
    return StageOutput(rows, tables, arrays, facts, files)


def rounded(scores: Mapping[str, float]) -> str:
    """Scores as one line of text."""
    return ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
