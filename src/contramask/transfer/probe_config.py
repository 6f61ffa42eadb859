"""What the user may choose about probes."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from contramask.transfer.attentive import AttentiveConfig
from contramask.transfer.dense_probe import DenseProbeConfig
from contramask.transfer.pictured import PicturesConfig
from contramask.transfer.readout import Count, ReadoutConfig
from contramask.transfer.strict_linear import StrictLinearConfig
from contramask.typed import STRICT

Readout = Literal["cls", "mean", "cls+mean"]


@dataclass(frozen=True, config=STRICT)
class ProbeConfig(ReadoutConfig):
    """Which readouts of the frozen encoder are measured, and by what.

    All settings stand in the output's facts; a kNN number means nothing without its k and
    temperature. What is None or left out costs nothing.
    """

    #: `cls` is the class token, `mean` the mean patch token, `cls+mean` both side by side.
    readouts: Annotated[tuple[Readout, ...], Field(min_length=1)] = ("mean", "cls", "cls+mean")
    blocks: tuple[Count, ...] = ()  # also read after these blocks, counted from 1
    eval_crop: Annotated[float, Field(gt=0, le=1)] = 1.0  # side of the centre crop; 0.875: 224/256
    alignment_images: int = Field(default=512, ge=0)  # val images of which a second view is read
    attentive: AttentiveConfig | None = AttentiveConfig()
    strict_linear: StrictLinearConfig | None = None
    dense: DenseProbeConfig | None = None
    pictures: PicturesConfig | None = PicturesConfig()  # kept for the report
    cache_megabytes: int = Field(default=4000, ge=0)  # of features kept on disk
    anchor: bool = True  # measure the random-init encoder beside the trained one
