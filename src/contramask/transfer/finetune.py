"""Fine-tuning to classification: MAE's recipe (2111.06377, Table 9 and its released commands).

Mean-pooled patch tokens, a new LayerNorm and a linear head; layer-wise learning rates, mixup and
cutmix with label smoothing, random resized crops and random erasing.
"""

import logging
import time
from dataclasses import dataclass as plain_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from contramask.data.loader import ImageLoader, Subset
from contramask.data.resident import placed
from contramask.data.split import balanced_choice
from contramask.data.store import Store, StoreSplit
from contramask.data.views import ViewConfig, ViewMaker
from contramask.failures import ANEW, SMALLER, explained, within_memory
from contramask.methods.base import Batch
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.models.family import for_tuning, set_drop_path
from contramask.progress import track
from contramask.results import StageOutput, made_with, result_row
from contramask.tracker import Tracker
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine, prepare
from contramask.train.loop import TrainPlan, fit
from contramask.train.optim import adamw, layer_decay_groups
from contramask.train.parts import largest_step
from contramask.train.plan import measure_step
from contramask.train.schedule import scaled_lr, warmup_cosine
from contramask.transfer.classifier_training import Classifier, MixedTraining
from contramask.transfer.classifiers import top, top1
from contramask.transfer.dense import joined
from contramask.transfer.erasing import RandomErasing
from contramask.transfer.features import Normalised, centre, labelled, unlabelled
from contramask.transfer.finetune_config import FinetuneConfig
from contramask.transfer.judgement import Judgement
from contramask.transfer.metric_names import metric_prefix
from contramask.transfer.rand_augment import RandAugment
from contramask.transfer.running import Work, work_of
from contramask.typed import to_plain

log = logging.getLogger(__name__)

#: Keys that change what is measured or shown, and no training.
_FREE = ("anchor", "compute_matched", "eval_crop", "fractions", "log_every", "worst")


@plain_dataclass(frozen=True)
class _Part:
    """One training: its protocol, what its tables' names end in, most labels, and how long."""

    protocol: str
    suffix: str
    limit: int | None
    epochs: int


@plain_dataclass(frozen=True)
class _Task:
    """What all encoders and shares of labels of one run have in common."""

    store: Store
    config: FinetuneConfig
    machine: Machine
    val: Subset
    truth: Tensor
    work: Work

    @property
    def parts(self) -> list[_Part]:
        """With all labels, and with each share of them."""
        config, total = self.config, int((self.store["train"].labels >= 0).sum())
        parts = [_Part("finetune", "", config.train_limit, config.epochs)]
        for share in config.fractions:
            text, limit = f"{100 * share:g}", max(round(total * share), 2)
            part = _Part(f"finetune {text} %", f"-{text}-percent", limit, config.epochs)
            parts.append(part)
        return parts


def run_finetune(
    bundle: EncoderBundle,
    store: Store,
    config: FinetuneConfig,
    launch: LaunchConfig,
    tracker: Tracker,
    work: Path | None = None,
) -> StageOutput:
    """Fine-tune one encoder (and its random-init anchor) and measure it on the val split.

    Rows, in percent, of the last epoch: finetune_top1, finetune_top5 with more than five classes
    and finetune_ece (expected calibration error); protocol `finetune`, `finetune 10 %` where a
    share of the labels was used, and `finetune compute-matched` of a random network that was
    trained for as many FLOPs as pre-training, its tokenizer and fine-tuning together; readout
    `mean, EMA` for averaged weights. Tables: curve, per_class and calibration; worst names the
    pictures of `worst_images`. Skipped without labels or val images. Running checkpoints lie in
    `work` until they are forgotten (`train.leftovers`).
    """
    reason = unlabelled(store)
    if reason:
        log.warning("fine-tuning is skipped: %s", reason)
        return StageOutput.skipped("finetune", reason)
    started = time.perf_counter()
    val = labelled(store["val"])
    kept = work_of(work, "finetune", config, _FREE, store, launch)
    task = _Task(store, config, pick_machine(launch), val, torch.from_numpy(val.labels), kept)
    measured = partial(_measure_all, task, bundle, tracker)
    parts = explained(measured, work or store.folder, lambda: SMALLER, ANEW)
    facts = {
        "stage": "finetune",
        "config": to_plain(config),
        "classes": store.manifest["classes"],
        "machine": machine_name(task.machine.device),
        "seconds": round(time.perf_counter() - started, 1),
        **made_with(),
    }
    return joined(parts, facts).measured_on(store.manifest["name"])


def _measure_all(task: _Task, bundle: EncoderBundle, tracker: Tracker) -> list[StageOutput]:
    bundles = [bundle, random_init_bundle(bundle)] if task.config.anchor else [bundle]
    parts = [_measure(task, one, part, tracker) for part in task.parts for one in bundles]
    if task.config.compute_matched and (matched := _matched(task, bundle)):
        parts.append(_measure(task, random_init_bundle(bundle), matched, tracker))
    return parts


def _matched(task: _Task, bundle: EncoderBundle) -> _Part | None:
    """How long a random network trains for the FLOPs that `bundle` was pre-trained with as well."""
    spent = bundle.manifest.get("pretrain_tflop")
    if not spent:
        log.warning("no compute-matched baseline: the encoder does not say what it cost")
        return None
    config, limit = task.config, task.config.train_limit
    training, loader, _ = _prepared(random_init_bundle(bundle), task, limit)
    flops, _ = measure_step(training, next(loader.epoch(0)), task.machine)
    epoch = flops * loader.steps_per_epoch * loader.batch_size
    epochs = config.epochs + round(1e12 * float(spent) / epoch)
    known = bundle.manifest.get("tokenizer_tflop") is not None
    counted = "" if known else ", without the tokenizer if there was one: its cost is not stated"
    log.info("compute-matched baseline: %d epochs from random weights%s", epochs, counted)
    return _Part("finetune compute-matched", "-compute-matched", limit, epochs)


def _measure(task: _Task, bundle: EncoderBundle, part: _Part, tracker: Tracker) -> StageOutput:
    """Fine-tune one encoder on one share of the labels; what its scores say."""
    protocol = part.protocol
    method, name = bundle.manifest["method"], bundle.manifest["method"] + part.suffix
    tracked = metric_prefix(bundle.manifest, "finetune", part.suffix.removeprefix("-"))
    training, curve = _train(bundle, task, part, tracker, tracked)
    judged = Judgement(_scores(training.classifier, bundle, task), task.truth)
    found = {"mean": judged}
    if training.average is not None:
        found["mean, EMA"] = Judgement(_scores(training.average, bundle, task), task.truth)
    rows = []
    for readout, one in found.items():
        values = _values(one)
        log.info("%s: %s, %s: top-1 %.1f", method, protocol, readout, values["finetune_top1"])
        rows += [
            result_row(bundle.manifest, "val", protocol, readout, metric, value)
            for metric, value in values.items()
        ]
    own = {f"{tracked}/{metric}": value for metric, value in _values(judged).items()}
    tracker.log(own, int(curve["step"].iloc[-1]))
    kept = _kept(task, judged, name)
    kept.tables[f"{name}-curve"] = curve
    return StageOutput(pd.DataFrame(rows), kept.tables, kept.arrays)


def _values(judged: Judgement) -> dict[str, float]:
    """The metrics of one network, in percent."""
    values = {"finetune_top1": top1(judged.scores, judged.truth)}
    if judged.scores.shape[1] > 5:
        values["finetune_top5"] = top(judged.scores, judged.truth, 5)
    return values | {"finetune_ece": judged.calibration_error()}


def _kept(task: _Task, judged: Judgement, name: str) -> StageOutput:
    """Tables and pictures of what the classifier got right and wrong."""
    worst = judged.worst(task.config.worst)
    split = task.store["val"]
    worst.insert(0, "id", [split.ids[i] for i in task.val.rows[worst["row"].to_numpy()]])
    tables = {
        f"{name}-per_class": judged.per_class(task.store.manifest["classes"]),
        f"{name}-calibration": judged.calibration(),
        f"{name}-worst": worst,
    }
    arrays = {f"{name}/confusion": judged.confusion()}
    if len(worst):
        arrays[f"{name}/worst_images"] = task.val.__getitems__(worst["row"].to_numpy())
    return StageOutput(tables=tables, arrays=arrays)


def _prepared(
    bundle: EncoderBundle, task: _Task, limit: int | None
) -> tuple[MixedTraining, ImageLoader, list[dict[str, Any]]]:
    """What is trained, on which batches, and its parameters by learning rate."""
    config = task.config
    encoder = for_tuning(bundle.encoder)
    torch.manual_seed(bundle.manifest["seed"])
    set_drop_path(encoder.blocks, config.drop_path)
    classes = task.store.num_classes
    classifier = Classifier(encoder, classes)
    mixing = (config.mixup, config.cutmix, config.label_smoothing)
    training = MixedTraining(classifier, classes, *mixing, config.ema)
    prepare(training, task.machine)
    loader = _loader(bundle, task.store, config, task.machine, limit)
    groups = layer_decay_groups(encoder, [classifier.head], config.weight_decay, config.layer_decay)
    return training, loader, groups


def _train(
    bundle: EncoderBundle, task: _Task, part: _Part, tracker: Tracker, name: str
) -> tuple[MixedTraining, pd.DataFrame]:
    config = task.config
    training, loader, groups = _prepared(bundle, task, part.limit)
    total = loader.steps_per_epoch * part.epochs
    warmup = int(config.warmup_epochs * loader.steps_per_epoch)
    plan = TrainPlan(
        name=name,
        epochs=part.epochs,
        optimizer=adamw(groups, scaled_lr(config.base_lr, config.batch_size), (0.9, 0.999)),
        factor_at=lambda step: warmup_cosine(step, total, warmup, config.min_lr_factor),
        machine=task.machine,
        seed=bundle.manifest["seed"],
        log_every=config.log_every,
    )
    advice = partial(largest_step, training, loader, task.machine, "finetune.batch_size")
    extent = {"epochs": part.epochs, "labels": part.limit}
    keeper = task.work.keeper(f"all{part.suffix}", bundle, extent)
    return training, within_memory(lambda: fit(training, loader, plan, tracker, keeper), advice)


def _loader(
    bundle: EncoderBundle,
    store: Store,
    config: FinetuneConfig,
    machine: Machine,
    limit: int | None,
) -> ImageLoader:
    manifest = bundle.manifest
    rows, cols = manifest["arch"]["image_size"]
    crop = ViewConfig(crop_scale=config.crop_scale, flip=config.flip)
    views = ViewMaker(crop, "single", (rows, cols), manifest["mean"], manifest["std"])
    channels, device = len(manifest["mean"]), machine.device
    erase = RandomErasing(config.random_erasing, channels, (rows, cols), device)
    grey = tuple(round(255 * value) for value in manifest["mean"])
    alter = RandAugment(config.rand_augment, grey, min(rows, cols)) if config.rand_augment else None

    def altered(images: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        pixels = views.crop(images, key)
        return {"view": erase(views.normalise(alter(pixels, key) if alter else pixels), key)}

    images = placed(_train_images(store["train"], limit), device, machine.resident)
    size = config.batch_size
    if limit is not None and len(images) < size:  # few labels: as large a batch as they fill
        size = len(images) // 2 * 2
    return ImageLoader(images, altered, size, manifest["seed"], machine.device)


def _train_images(split: StoreSplit, limit: int | None) -> Subset:
    """The labelled images, or `limit` of them: equally many of each class, the same every time."""
    rows = np.flatnonzero(split.labels >= 0)
    names = [split.ids[row] for row in rows]
    return Subset(split, rows[balanced_choice(names, split.labels[rows].tolist(), limit)])


@torch.no_grad()
def _scores(classifier: Classifier, bundle: EncoderBundle, task: _Task) -> Tensor:
    """Class scores of the val images (N, K) float32, on the processor."""
    classifier.eval()
    inputs, scores = Normalised(bundle, task.machine.device), []
    starts = range(0, len(task.val), 256)
    for start in track(starts, f"evaluate {bundle.manifest['method']}", len(starts)):
        pixels = task.val.__getitems__(np.arange(start, min(start + 256, len(task.val))))
        with task.machine.autocast():
            images = inputs(centre(pixels, task.config.eval_crop))
            scores.append(classifier(images).float().cpu())
    return torch.cat(scores)
