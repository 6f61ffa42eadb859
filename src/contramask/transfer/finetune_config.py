"""What the user may choose about fine-tuning."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from contramask.data.config import ScaleRange
from contramask.transfer.rand_augment import check_recipe
from contramask.typed import STRICT

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class FinetuneConfig:
    """MAE's ViT-B recipe, shortened; `conf/paper_mae` states it in full."""

    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=128, ge=2, multiple_of=2)  # mixing pairs the images up
    base_lr: float = Field(default=1e-3, gt=0)  # per 256 images
    layer_decay: float = Field(default=0.75, gt=0, le=1)
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_epochs: float = Field(default=1, ge=0)
    min_lr_factor: Share = 1e-3
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    mixup: float = Field(default=0.8, ge=0)  # alpha of its Beta distribution; 0: off
    cutmix: float = Field(default=1.0, ge=0)
    label_smoothing: Share = 0.1
    random_erasing: Share = 0.25
    flip: Share = 0.5
    crop_scale: ScaleRange = (0.08, 1.0)
    #: timm's recipe, MAE's is rand-m9-mstd0.5-inc1; slow: Pillow
    rand_augment: Annotated[str, AfterValidator(check_recipe)] | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # also measure averaged weights
    eval_crop: Annotated[float, Field(gt=0, le=1)] = 1.0  # side of the centre crop; 0.875: 224/256
    train_limit: int | None = Field(default=None, ge=1)  # labelled images used; None: all
    fractions: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()  # and again with these shares
    compute_matched: bool = False  # also train the random network for pre-training's FLOPs
    worst: int = Field(default=12, ge=0)  # surest mistakes kept as pictures
    log_every: int = Field(default=20, ge=1)
    anchor: bool = True  # measure the random-init encoder beside the trained one
