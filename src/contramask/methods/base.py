"""What the trainer knows of a pre-training method, and all it knows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from contramask.draws import uniform
from contramask.losses import Gather, no_gather
from contramask.models.family import Encoder
from contramask.models.tokenizer_bundle import TokenizerBundle

#: Tensors by name: view, target_view (B, C, H, W), index, key, label (B,); noise (B, U) if forced.
Batch = dict[str, Any]

#: Streams of random numbers a method draws from an image's key; views use numbers below 64.
MASK_STREAM = 64


@dataclass(frozen=True)
class StepOutput:
    """One training step's scalar loss and its detached parts, logged by name."""

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


class Settings(Protocol):
    """What all methods' configurations have in common."""

    @property
    def name(self) -> str:
        """The name under which `pretrain.method` asks for the method."""


class Method(nn.Module):
    """One pre-training objective around one encoder; subclasses define `forward(batch)`.

    `encoder` is what gets exported and `branch` says which network that is. Of several processes,
    each sees a share of the batch: `gather` collects values of all shares, `rank` numbers this one.
    """

    config: Settings
    encoder: Encoder
    branch: Literal["online", "target"] = "online"
    rank: int = 0
    #: Whether the method predicts hidden pixels, which `reconstruct` shows.
    draws_pictures: bool = False
    #: Whether `gauges` reads the weights, and not just what the latest step left behind.
    gauges_read_weights: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.gather: Gather = no_gather
        #: Ids of the frozen things this training learns from, for its record and its fingerprint.
        self.ingredients: dict[str, str] = {}

    @property
    def label(self) -> str:
        """The name under which results and encoders of this training are kept."""
        return self.config.name

    def attach(self, data: Mapping[str, Any], tokenizer: TokenizerBundle | None) -> None:
        """Make what depends on the data, once, before training; most methods need nothing.

        data is the store's manifest. Raises `ValueError` where data or tokenizer do not serve.
        """

    def cut(self, batch: Batch, parts: int) -> list[Batch]:
        """A batch in parts of about equal size; the mean of their losses must be the batch's.

        Where images meet, a method says so as a `CoupledMethod` instead.
        """
        return equal_parts(batch, parts)

    def why_not_cut(self, images: int, parts: int) -> str | None:
        """Why so many images cannot be cut into so many parts; None where they can."""
        return None

    def after_step(self, progress: float) -> None:
        """Update target networks; progress runs from 0 to 1 over the whole training."""

    def gauges(self) -> dict[str, Tensor]:
        """Health numbers of the latest step, asked for only when a step is logged."""
        return {}

    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predictions for all patches (B, L, P) and the mask (B, L), True where hidden.

        Raises `ValueError` unless the method `draws_pictures`.
        """
        raise ValueError(f"{self.label}, as it is configured, predicts no pixels")


def mask_noise(batch: Batch, count: int, name: str = "noise", stream: int = MASK_STREAM) -> Tensor:
    """One number for each of `count` patches or cells, (B, count); the largest are hidden.

    From the batch if it brings some under `name`, else from its images' keys.
    """
    noise: Tensor | None = batch.get(name)
    return uniform(batch["key"], stream, count) if noise is None else noise


def rows(batch: Batch, which: slice) -> Batch:
    """Some of a batch's images."""
    return {k: v[which] if isinstance(v, Tensor) else v for k, v in batch.items()}


def equal_parts(batch: Batch, parts: int) -> list[Batch]:
    """A batch in equal parts, in order; what is no tensor goes into each."""
    if parts == 1:
        return [batch]
    cut = {k: v.tensor_split(parts) for k, v in batch.items() if isinstance(v, Tensor)}
    return [{k: cut[k][n] if k in cut else v for k, v in batch.items()} for n in range(parts)]


def together(one: Batch, other: Batch) -> Batch:
    """The images of two batches as one; what is no tensor is the first one's."""
    return {k: torch.cat([v, other[k]]) if isinstance(v, Tensor) else v for k, v in one.items()}
