"""What the user may choose about segmentation."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from contramask.models.dpt import DPTConfig, check_installed
from contramask.models.upernet import UPerNetConfig
from contramask.transfer.dense import TuneConfig
from contramask.transfer.jitter import JitterConfig
from contramask.typed import STRICT

#: Heads that train the encoder under them, and all heads.
TunedHead = Literal["upernet", "dpt"]
Head = Literal["linear", TunedHead]
CropSide = Annotated[int, Field(ge=8)]


@dataclass(frozen=True, config=STRICT)
class LinearTune(TuneConfig):
    """Training of the linear head alone; layer decay and drop path concern no head."""

    epochs: int = Field(default=15, ge=1)
    lr: float = Field(default=1e-2, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    clip_grad: float | None = Field(default=None, gt=0)


@dataclass(frozen=True, config=STRICT)
class UPerNetTune(TuneConfig):
    """Training of UPerNet together with the encoder."""

    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=16, ge=2)
    lr: float = Field(default=3e-3, gt=0)


@dataclass(frozen=True, config=STRICT)
class DPTTune(TuneConfig):
    """Training of DPT together with the encoder."""

    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=16, ge=2)
    lr: float = Field(default=3e-3, gt=0)


@dataclass(frozen=True, config=STRICT)
class SegmentationConfig:
    """Protocols: `linear` on frozen features; `upernet` and `dpt` with the encoder fine-tuned.

    `dpt` needs `uv sync --extra dpt`.
    The defaults suit the digit scenes on two cores; ADE20K's values stand in comments.
    """

    heads: Annotated[tuple[Head, ...], AfterValidator(check_installed)] = ("linear", "upernet")
    train_limit: int | None = Field(default=3000, ge=2)  # images, spread over the train split
    val_limit: int | None = Field(default=1000, ge=1)
    upscale: float = Field(default=1.0, gt=0)  # the encoder reads stored images this much larger
    linear: LinearTune = field(default_factory=LinearTune)
    upernet: UPerNetTune = field(default_factory=UPerNetTune)
    net: UPerNetConfig = field(default_factory=UPerNetConfig)
    dpt: DPTTune = field(default_factory=DPTTune)
    dpt_net: DPTConfig = field(default_factory=DPTConfig)
    jitter: JitterConfig = field(default_factory=JitterConfig)  # linear has none
    #: Rows and columns of the window that upernet and dpt learn on and slide over images; null:
    #: whole images.
    crop: tuple[CropSide, CropSide] | None = None  # ADE20K: 512, 512
    stride: float = Field(default=2 / 3, gt=0, le=1)  # between windows, in their sides
    max_class_share: float = Field(default=0.75, gt=0, le=1)  # of one class in a training window
    cache_megabytes: float = Field(default=4096, ge=0)  # frozen features kept when they fit
    pictures: int = Field(default=8, ge=0)
    anchor: bool = True  # measure the random-init encoder beside the trained one
