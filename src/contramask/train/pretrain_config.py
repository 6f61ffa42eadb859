"""What the user may choose about pre-training."""

from dataclasses import field
from typing import Annotated

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from contramask.data.views import ViewConfig
from contramask.methods import MethodConfig
from contramask.methods.cmae import CMAEConfig
from contramask.models.encoder import EncoderConfig
from contramask.train.box_refresh import RefreshConfig
from contramask.train.optim import Exempt
from contramask.typed import STRICT

Beta = Annotated[float, Field(ge=0, lt=1)]

#: Keys that change how a run is done and not what it learns: they may differ when it is continued.
FREE = ("log_every", "save_minutes", "accumulate", "nonfinite")


@dataclass(frozen=True, config=STRICT)
class NonFiniteConfig:
    """What to do about steps whose loss or gradient is NaN or infinite."""

    skip_up_to: int = Field(default=0, ge=0)  # steps that may be left out before training stops


@dataclass(frozen=True, config=STRICT)
class PretrainConfig:
    """One pre-training; defaults: MAE's optimiser (2111.06377, Table 8) and the demo's sizes."""

    method: MethodConfig = field(default_factory=CMAEConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    image_size: int | None = Field(default=None, ge=8)  # side of the views in px; None: the store's
    epochs: int = Field(default=18, ge=1)
    batch_size: int = Field(default=128, ge=2)
    base_lr: float = Field(default=1.5e-4, gt=0)  # per 256 images
    warmup_epochs: float = Field(default=2, ge=0)
    min_lr_factor: float = Field(default=0, ge=0, le=1)  # of the peak rate, where the cosine ends
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    exempt: Exempt = "one_dim"  # which parameters weight decay spares
    clip_grad: float | None = Field(default=None, gt=0)
    log_every: int = Field(default=20, ge=1)  # steps
    save_minutes: float = Field(default=10, ge=0)  # between running checkpoints
    box_refresh: RefreshConfig | None = None  # boxes made anew while training; None: never
    #: Parts that pass through the network one after the other for one update, to need less memory.
    #: The same training up to rounding; where images of a batch meet, in negatives or batch norms,
    #: the price is one more forward pass of the online branch.
    accumulate: int = Field(default=1, ge=1)
    nonfinite: NonFiniteConfig = field(default_factory=NonFiniteConfig)

    @model_validator(mode="after")
    def _has_boxes_to_refresh(self) -> "PretrainConfig":
        if self.box_refresh is not None and not self.views.needs_boxes:
            raise ValueError(
                f"box_refresh makes boxes anew, and views.crop {self.views.crop} uses none; set"
                " views.crop to boxes or inside_boxes, or leave box_refresh out"
            )
        return self
