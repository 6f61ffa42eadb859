"""What the user may choose about crop boxes: where they come from and when a set is refused."""

from dataclasses import field, replace
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from contramask.boxes.encoder_maps import ENCODER_MAPS, Baseline, EncoderMap
from contramask.boxes.gates import GateConfig
from contramask.boxes.quality import CropConfig
from contramask.boxes.rules import RuleConfig
from contramask.data.views import ViewConfig
from contramask.typed import STRICT

_MASS = RuleConfig(smooth_sigma=0, component="mass")
#: The rules that won on photographs: on 2,500 val images of Tiny-ImageNet and on 2,172 others
#: (`contramask boxes compare`; the encoder was an MAE of 6 epochs on its 60,000 train images; whole
#: images have a CorLoc of 50 %, other images' boxes 49 %). `edge_energy`, 56 % with 90 % coverage
#: and 8 % fallbacks, beat every map of the encoder (at best 54 %), so it is the default. Maps of an
#: encoder have no threshold that suits every encoder: the middle of their mass does, with fewer
#: whole images.
RULES = {
    "edge_energy": RuleConfig(smooth_sigma=0, threshold=0.3, component="all"),
    **dict.fromkeys(("spectral_residual", *ENCODER_MAPS), _MASS),
}


@dataclass(frozen=True, config=STRICT)
class BoxConfig:
    """Where crop boxes come from, how a heat map becomes a box, and when a set is refused."""

    #: Without a network: the first four. `cls_attn` to `rec_err` ask a trained `encoder`; which of
    #: them suits it, `contramask boxes compare` measures where there are true boxes. `gt` takes
    #: the data's own boxes: an upper bound for comparison, never a method.
    method: Literal["full", "center_half", "spectral_residual", "edge_energy", "gt", EncoderMap] = (
        "edge_energy"
    )
    #: Folder of the encoder to ask: 06_models/<experiment> of a finished pre-training.
    encoder: Path | None = None
    #: The encoder's block whose tokens, keys or attention are read, from 1; null = the last.
    block: int | None = Field(default=None, ge=1)
    #: `blank` takes tokens and keys relative to those of an image of the mean colour, which tell
    #: only where they are; `none` as they are, as LOST and TokenCut do with DINO's.
    baseline: Baseline = "blank"
    #: `shuffled` gives every image another one's box: a control that keeps all statistics.
    deal: Literal["own", "shuffled"] = "own"
    #: Cells of a heat map's side.
    grid: int = Field(default=16, ge=4, le=64)
    #: null = the rule that suits the method (`RULES`).
    rule: RuleConfig | None = None
    #: The crops `binds` and the crop check refer to; null = those of the pre-training where it is
    #: known (`for_views`), else ContrastiveCrop's. What is given here replaces all of them.
    crop: CropConfig | None = None
    gates: GateConfig = field(default_factory=GateConfig)
    #: What a training gets from a refused set: an error, the boxes all the same, or whole images.
    on_alarm: Literal["stop", "keep", "full"] = "stop"

    @property
    def crops(self) -> CropConfig:
        """The crops to judge boxes by."""
        return self.crop or CropConfig()

    def for_views(self, views: ViewConfig) -> "BoxConfig":
        """This config, judging boxes by the crops of `views` unless it names its own."""
        return self if self.crop else replace(self, crop=CropConfig.of(views))
