"""MAE's linear probe as published: LARS on augmented views (2111.06377, appendix A.2).

The encoder reads every view anew, so this costs a forward pass an image and epoch; the linear probe
on stored features costs seconds.
"""

from dataclasses import dataclass as plain_dataclass
from functools import partial
from typing import Any

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.data.config import ScaleRange
from contramask.data.loader import Batch, ImageLoader, Images
from contramask.data.resident import placed
from contramask.data.views import ViewConfig, ViewMaker
from contramask.failures import within_memory
from contramask.methods.base import StepOutput
from contramask.models.bundle import EncoderBundle
from contramask.models.family import Encoder
from contramask.tracker import Tracker
from contramask.train.checkpoint import Keeper
from contramask.train.device import Machine, prepare
from contramask.train.loop import BatchSource, TrainPlan, fit
from contramask.train.parts import largest_step
from contramask.train.schedule import scaled_lr, warmup_cosine
from contramask.transfer.metric_names import metric_prefix
from contramask.typed import STRICT

_CHUNK = 256  # views the encoder reads at once; only the heads see a whole batch


@dataclass(frozen=True, config=STRICT)
class StrictLinearConfig:
    """MAE's ViT-B recipe; the published batch is 16,384, for which lr is 6.4.

    Smaller data need a smaller batch: the linear rule keeps the learning rate in step.
    """

    epochs: int = Field(default=90, ge=1)
    warmup_epochs: float = Field(default=10, ge=0)
    batch_size: int = Field(default=512, ge=2)
    base_lr: float = Field(default=0.1, gt=0)  # per 256 images
    crop_scale: ScaleRange = (0.08, 1.0)
    flip: float = Field(default=0.5, ge=0, le=1)


class StrictHead(nn.Sequential):
    """Batch norm without gain and bias, linear: features (B, D) to scores (B, K)."""

    def __init__(self, width: int, num_classes: int) -> None:
        linear = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        super().__init__(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear)


class _Training(nn.Module):
    """A frozen encoder and a head for its class token and its mean patch token."""

    def __init__(self, encoder: Encoder, heads: nn.ModuleDict) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, heads

    def train(self, mode: bool = True) -> "_Training":
        """Set the heads' mode; the encoder stays as it is used."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> StepOutput:
        """The sum of both cross-entropies, each of which moves its own head alone."""
        pooled = self._pooled(batch["view"])
        with torch.autocast(pooled["cls"].device.type, enabled=False):
            losses = {
                name: F.cross_entropy(head(pooled[name]), batch["label"])
                for name, head in self.heads.items()
            }
        terms = {f"{name}_loss": loss.detach() for name, loss in losses.items()}
        return StepOutput(torch.stack(list(losses.values())).sum(), terms)

    @torch.no_grad()
    def _pooled(self, view: Tensor) -> dict[str, Tensor]:
        cls, mean = [], []
        for part in torch.split(view, _CHUNK):
            tokens = self.encoder.forward_tokens(part).float()
            cls.append(tokens[:, 0])
            mean.append(tokens[:, 1:].mean(dim=1))
        return {"cls": torch.cat(cls), "mean": torch.cat(mean)}


def lars_groups(heads: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Parameter groups with which timm's LARS does what MAE's does.

    Weights are adapted although nothing decays them, which timm otherwise takes as a sign to leave
    them alone; one-dimensional parameters are not.
    """
    weights = [p for p in heads.parameters() if p.ndim > 1]
    biases = [p for p in heads.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "lr": lr, "peak_lr": lr, "always_adapt": True},
        {"params": biases, "lr": lr, "peak_lr": lr, "always_adapt": False},
    ]


def lars(heads: nn.Module, lr: float) -> Lars:
    """LARS with MAE's constants: momentum 0.9, trust coefficient 0.001, no weight decay."""
    return Lars(lars_groups(heads, lr), lr=lr, momentum=0.9, trust_coeff=0.001)


@plain_dataclass(frozen=True)
class StrictLinear:
    """Trained heads for `cls` and `mean` features."""

    heads: nn.ModuleDict

    @torch.no_grad()
    def scores(self, readout: str, features: Tensor) -> Tensor:
        """Class scores (N, K) of features (N, D) of whole images."""
        scores: Tensor = self.heads[readout].eval()(features)
        return scores


def strict_linear(
    bundle: EncoderBundle,
    images: Images,
    num_classes: int,
    config: StrictLinearConfig,
    machine: Machine,
    tracker: Tracker,
    keeper: Keeper | None = None,
) -> StrictLinear:
    """Train both heads on views of labelled images; the encoder learns nothing."""
    manifest = bundle.manifest
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(manifest["seed"])
        heads = nn.ModuleDict(
            {name: StrictHead(bundle.encoder.embed_dim, num_classes) for name in ("cls", "mean")}
        )
    model = prepare(_Training(bundle.encoder, heads), machine)
    loader = _loader(bundle, images, config, machine)
    total = config.epochs * loader.steps_per_epoch
    warmup = int(config.warmup_epochs * loader.steps_per_epoch)
    plan = TrainPlan(
        name=metric_prefix(manifest, "probe", "linear-mae"),
        epochs=config.epochs,
        optimizer=lars(heads, scaled_lr(config.base_lr, loader.batch_size)),
        factor_at=lambda step: warmup_cosine(step, total, warmup),
        machine=machine,
        seed=manifest["seed"],
        log_every=max(loader.steps_per_epoch, 1),
    )
    advice = partial(largest_step, model, loader, machine, "probe.strict_linear.batch_size")
    within_memory(lambda: fit(model, loader, plan, tracker, keeper), advice)
    return StrictLinear(heads.cpu())


def _loader(
    bundle: EncoderBundle, images: Images, config: StrictLinearConfig, machine: Machine
) -> BatchSource:
    manifest = bundle.manifest
    rows, cols = manifest["arch"]["image_size"]
    crop = ViewConfig(crop_scale=config.crop_scale, flip=config.flip)
    views = ViewMaker(crop, "single", (rows, cols), manifest["mean"], manifest["std"])
    batch_size = min(config.batch_size, len(images))
    images = placed(images, machine.device, machine.resident)
    return ImageLoader(images, views, batch_size, manifest["seed"], machine.device)
