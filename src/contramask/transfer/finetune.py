"""Fine-tuning to classification: MAE's recipe (2111.06377, Table 9 and its released commands).

Mean-pooled patch tokens, a new LayerNorm and a linear head; layer-wise learning rates, mixup and
cutmix with label smoothing, random resized crops and random erasing.
"""

import logging
import random
import time
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.layers.drop import DropPath
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from torch import Tensor, nn

from contramask.data.config import ScaleRange
from contramask.data.loader import ImageLoader, Subset
from contramask.data.split import balanced_choice
from contramask.data.store import Store, StoreSplit
from contramask.data.views import ViewConfig, ViewMaker
from contramask.methods.base import Batch, StepOutput
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.models.family import Encoder, for_tuning
from contramask.progress import track
from contramask.results import StageOutput, result_row
from contramask.tracker import NullTracker, Tracker
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine, prepare
from contramask.train.loop import TrainPlan, fit
from contramask.train.optim import adamw, layer_decay_groups
from contramask.train.schedule import scaled_lr, warmup_cosine
from contramask.transfer.classifiers import top1
from contramask.transfer.features import Normalised, labelled, unlabelled
from contramask.typed import STRICT, to_plain

log = logging.getLogger(__name__)

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
    train_limit: int | None = Field(default=None, ge=1)  # labelled images used; None: all
    log_every: int = Field(default=20, ge=1)
    anchor: bool = True  # measure the random-init encoder beside the trained one


class Classifier(nn.Module):
    """An encoder, mean pooling, a fresh norm and a linear layer: (B, C, H, W) to (B, K).

    The encoder's own final norm is dropped, as MAE does: it never saw pooled tokens.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.norm = nn.Identity()
        self.head = nn.Sequential(
            nn.LayerNorm(encoder.embed_dim, eps=1e-6), nn.Linear(encoder.embed_dim, num_classes)
        )
        nn.init.trunc_normal_(self.head.get_parameter("1.weight"), std=2e-5)
        nn.init.zeros_(self.head.get_parameter("1.bias"))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        return self.head(self.encoder.tokens(images)[:, 1:].mean(dim=1))  # type: ignore[no-any-return]


class _Training(nn.Module):
    """The classifier with its regularisation, as the training loop calls it."""

    def __init__(self, classifier: Classifier, config: FinetuneConfig, num_classes: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.criterion = SoftTargetCrossEntropy()  # type: ignore[no-untyped-call]
        self.mix = Mixup(  # type: ignore[no-untyped-call]
            config.mixup,
            config.cutmix,
            prob=1.0 if config.mixup or config.cutmix else 0.0,
            label_smoothing=config.label_smoothing,
            num_classes=num_classes,
        )

    def forward(self, batch: Batch) -> StepOutput:
        """Cross-entropy with mixed, smoothed labels."""
        # timm's Mixup draws from NumPy's global generator; torch's is seeded by the loop each step.
        np.random.seed(int(torch.randint(2**31, (1,))))
        images, targets = self.mix(batch["view"], batch["label"])
        return StepOutput(self.criterion(self.classifier(images).float(), targets))


def run_finetune(
    bundle: EncoderBundle,
    store: Store,
    config: FinetuneConfig,
    launch: LaunchConfig,
    tracker: Tracker,
) -> StageOutput:
    """Fine-tune one encoder (and its random-init anchor) and measure top-1 on the val split.

    Rows: finetune_top1 of the last epoch, in percent. Skipped without labels or val images.
    """
    reason = unlabelled(store)
    if reason:
        log.warning("fine-tuning is skipped: %s", reason)
        return StageOutput.skipped("finetune", reason)
    started = time.perf_counter()
    machine = pick_machine(launch)
    output = StageOutput()
    rows: list[dict[str, Any]] = []
    val = labelled(store["val"])
    truth = torch.from_numpy(val.labels)
    for one in [bundle, random_init_bundle(bundle)] if config.anchor else [bundle]:
        method, own = one.manifest["method"], one is bundle
        classifier, curve = _train(one, store, config, machine, tracker if own else NullTracker())
        scores = _scores(classifier, one, val, machine)
        value = top1(scores, truth)
        log.info("%s: fine-tuned top-1 %.1f", method, value)
        rows.append(result_row(one.manifest, "val", "finetune", "mean", "finetune_top1", value))
        output.arrays[f"{method}/confusion"] = _confusion(scores, truth, store.num_classes)
        output.tables[f"{method}-curve"] = curve
        if own:
            tracker.log({"finetune/finetune_top1": value}, int(curve["step"].iloc[-1]))
    facts = {
        "stage": "finetune",
        "config": to_plain(config),
        "classes": store.manifest["classes"],
        "machine": machine_name(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return StageOutput(pd.DataFrame(rows), output.tables, output.arrays, facts)


def _train(
    bundle: EncoderBundle, store: Store, config: FinetuneConfig, machine: Machine, tracker: Tracker
) -> tuple[Classifier, pd.DataFrame]:
    manifest, seed = bundle.manifest, bundle.manifest["seed"]
    encoder = for_tuning(bundle.encoder)
    torch.manual_seed(seed)
    random.seed(seed)  # timm's random erasing draws from Python's generator
    _set_drop_path(encoder, config.drop_path)
    classifier = Classifier(encoder, store.num_classes)
    training = prepare(_Training(classifier, config, store.num_classes), machine)
    loader = _loader(bundle, store, config, machine)
    groups = layer_decay_groups(encoder, [classifier.head], config.weight_decay, config.layer_decay)
    total = loader.steps_per_epoch * config.epochs
    warmup = int(config.warmup_epochs * loader.steps_per_epoch)
    plan = TrainPlan(
        name=f"finetune/{manifest['method']}",
        epochs=config.epochs,
        optimizer=adamw(groups, scaled_lr(config.base_lr, config.batch_size), (0.9, 0.999)),
        factor_at=lambda step: warmup_cosine(step, total, warmup, config.min_lr_factor),
        machine=machine,
        seed=seed,
        log_every=config.log_every,
    )
    return classifier, fit(training, loader, plan, tracker)


def _loader(
    bundle: EncoderBundle, store: Store, config: FinetuneConfig, machine: Machine
) -> ImageLoader:
    manifest = bundle.manifest
    rows, cols = manifest["arch"]["image_size"]
    crop = ViewConfig(crop_scale=config.crop_scale, flip=config.flip)
    views = ViewMaker(crop, "single", (rows, cols), manifest["mean"], manifest["std"])
    erase = RandomErasing(  # type: ignore[no-untyped-call]
        config.random_erasing, mode="pixel", device=machine.device.type
    )

    def erased(images: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        return {"view": erase(views(images, key, boxes)["view"])}

    images = _train_images(store["train"], config.train_limit)
    return ImageLoader(images, erased, config.batch_size, manifest["seed"], machine.device)


def _train_images(split: StoreSplit, limit: int | None) -> Subset:
    """The labelled images, or `limit` of them: equally many of each class, the same every time."""
    rows = np.flatnonzero(split.labels >= 0)
    names = [split.ids[row] for row in rows]
    return Subset(split, rows[balanced_choice(names, split.labels[rows].tolist(), limit)])


def _set_drop_path(encoder: Encoder, rate: float) -> None:
    """Stochastic depth rising linearly from 0 to `rate` over the blocks."""
    depth = len(encoder.blocks)
    for number, block in enumerate(encoder.blocks):
        probability = rate * number / max(depth - 1, 1)
        block.drop_path1 = DropPath(probability) if probability else nn.Identity()
        block.drop_path2 = DropPath(probability) if probability else nn.Identity()


@torch.no_grad()
def _scores(
    classifier: Classifier, bundle: EncoderBundle, split: Subset, machine: Machine
) -> Tensor:
    classifier.eval()
    inputs, scores = Normalised(bundle, machine.device), []
    starts = range(0, len(split), 256)
    for start in track(starts, f"evaluate {bundle.manifest['method']}", len(starts)):
        indices = np.arange(start, min(start + 256, len(split)))
        with machine.autocast():
            scores.append(classifier(inputs(split.__getitems__(indices))).float().cpu())
    return torch.cat(scores)


def _confusion(scores: Tensor, truth: Tensor, num_classes: int) -> np.ndarray:
    """(K, K) counts, rows = truth, columns = prediction."""
    cells = truth * num_classes + scores.argmax(dim=1)
    return torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, -1).int().numpy()
