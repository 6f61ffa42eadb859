"""Semantic segmentation: what an encoder knows about every pixel, frozen and fine-tuned."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.data.loader import Batch, ImageLoader, Images, Subset, Views
from contramask.data.record import Split
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.models.upernet import UPerNet, UPerNetConfig, resize_like
from contramask.progress import track
from contramask.results import StageOutput, result_row
from contramask.tracker import Tracker
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine, prepare
from contramask.transfer.dense import (
    TargetLoader,
    TuneConfig,
    chunks,
    enlarged,
    joined,
    normalise,
    rounded,
    some,
    spread,
    tunable,
    tune,
)
from contramask.transfer.features import Normalised
from contramask.transfer.jitter import JitterConfig, draw_placement, place_classes, place_images
from contramask.transfer.metrics import confusion_matrix, per_class_table, segmentation_scores
from contramask.transfer.segmenters import (
    CachedFeatures,
    FrozenEncoder,
    LinearSegmenter,
    UPerNetSegmenter,
)
from contramask.typed import STRICT, to_plain

log = logging.getLogger(__name__)

Head = Literal["linear", "upernet"]
#: Scores (B, K, h, w) of stored images uint8 (B, H, W, C).
Predict = Callable[[Tensor], Tensor]
#: Images an evaluation step.
EVAL_BATCH = 128


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
class SegmentationConfig:
    """Two protocols: `linear` on frozen features, `upernet` with the encoder fine-tuned.

    The defaults suit the digit scenes on two cores; conf/ holds the ADE20K recipe.
    """

    heads: tuple[Head, ...] = ("linear", "upernet")
    train_limit: int | None = Field(default=3000, ge=2)  # images, spread over the train split
    val_limit: int | None = Field(default=1000, ge=1)
    upscale: float = Field(default=1.0, gt=0)  # the encoder reads images this much larger
    linear: LinearTune = field(default_factory=LinearTune)
    upernet: UPerNetTune = field(default_factory=UPerNetTune)
    net: UPerNetConfig = field(default_factory=UPerNetConfig)
    jitter: JitterConfig = field(default_factory=JitterConfig)  # of upernet; linear has none
    cache_megabytes: float = Field(default=4096, ge=0)  # frozen features kept when they fit
    pictures: int = Field(default=8, ge=0)
    anchor: bool = True  # measure the random-init encoder beside the trained one


@plain_dataclass(frozen=True)
class _Task:
    """What all encoders and heads of one run share."""

    store: Store
    config: SegmentationConfig
    machine: Machine
    tracker: Tracker
    train: Subset
    val: Subset

    @property
    def num_classes(self) -> int:
        return len(self.store.manifest["semantic_classes"])


def run_segmentation(
    bundle: EncoderBundle,
    store: Store,
    config: SegmentationConfig,
    launch: LaunchConfig,
    tracker: Tracker,
) -> StageOutput:
    """Segment with one encoder (and its random-init anchor), each head on the same batches.

    Rows: miou, macc, aacc, fwiou in percent for the protocols `linear` and `upernet`, at the
    store's resolution, whole images. Skipped when the store has no pixel classes or no val images.
    """
    reason = _unsuited(store)
    if reason:
        log.warning("segmentation is skipped: %s", reason)
        return StageOutput.skipped("segmentation", reason)
    started = time.perf_counter()
    train, val = some(store["train"], config.train_limit), some(store["val"], config.val_limit)
    task = _Task(store, config, pick_machine(launch), tracker, train, val)
    bundles = [bundle, random_init_bundle(bundle)] if config.anchor else [bundle]
    parts = []
    for one in bundles:
        large = enlarged(one, config.upscale)
        parts += [_pictures(task, large), *(_measure(task, large, head) for head in config.heads)]
    seconds = round(time.perf_counter() - started, 1)
    return joined(parts, {**_facts(task, bundle), "seconds": seconds})


def _unsuited(store: Store) -> str:
    """Why the store cannot be segmented, empty when it can."""
    if not store.has_semantic:
        return "the images have no classes per pixel"
    if "val" not in store or not len(store["val"]):
        return "there are no validation images"
    if len(store["train"]) < 2:
        return "there are fewer than two training images"
    return ""


def _facts(task: _Task, bundle: EncoderBundle) -> dict[str, Any]:
    rows, cols = bundle.encoder.image_size
    scale = task.config.upscale
    return {
        "stage": "segmentation",
        "config": to_plain(task.config),
        "train_images": len(task.train),
        "val_images": len(task.val),
        "encoder_input": [round(rows * scale), round(cols * scale)],
        "classes": task.store.manifest["semantic_classes"],
        "inference": "whole image, scored at the store's resolution, one scale",
        "machine": machine_name(),
    }


def _measure(task: _Task, bundle: EncoderBundle, head: Head) -> StageOutput:
    """Train one head on one encoder and score it on the val images."""
    method, manifest = bundle.manifest["method"], bundle.manifest
    train = {"linear": _train_linear, "upernet": _train_upernet}[head]
    predict, readout, curve = train(task, bundle)
    confusion, pictured = _evaluate(task, predict, f"evaluate {head} {method}")
    scores = segmentation_scores(confusion)
    log.info("segmentation, %s, %s: %s", method, head, rounded(scores))
    task.tracker.log({f"segment/{head}/{method}/{k}": v for k, v in scores.items()}, len(curve))
    rows = [result_row(manifest, "val", head, readout, k, v) for k, v in scores.items()]
    names = task.store.manifest["semantic_classes"]
    tables = {
        f"{method}-{head}-per_class": per_class_table(confusion, names),
        f"{method}-{head}-curve": curve,
    }
    return StageOutput(pd.DataFrame(rows), tables, {f"{method}/predicted_{head}": pictured})


def _train_linear(task: _Task, bundle: EncoderBundle) -> tuple[Predict, str, pd.DataFrame]:
    config, seed = task.config.linear, bundle.manifest["seed"]
    encode = FrozenEncoder(bundle, task.machine)
    torch.manual_seed(seed)
    model = LinearSegmenter(bundle.encoder.embed_dim, task.num_classes).to(task.machine.device)
    source = _source(task, config, seed, *_feature_images(task, encode))
    name = f"segment/linear/{bundle.manifest['method']}"
    groups = model.groups(config)
    curve = tune(
        model, source, groups, config, task.machine, name=name, seed=seed, tracker=task.tracker
    )
    model.eval()
    return (lambda pixels: model.head(encode(pixels))), "last map, normed", curve


def _feature_images(task: _Task, encode: FrozenEncoder) -> tuple[Images, Views]:
    """Frozen features, computed once when they fit into memory, batch by batch when not."""
    if encode.megabytes(len(task.train)) > task.config.cache_megabytes:
        return task.train, lambda pixels, key, boxes: {"features": encode(pixels)}
    parts = chunks(len(task.train), EVAL_BATCH)
    title = "features for the linear head"
    features = [
        encode(torch.from_numpy(task.train.__getitems__(part))).half().cpu().numpy()
        for part in track(parts, title, len(parts))
    ]
    cached = CachedFeatures(np.concatenate(features), task.train.labels)
    return cached, lambda features, key, boxes: {"features": features.float()}


def _train_upernet(task: _Task, bundle: EncoderBundle) -> tuple[Predict, str, pd.DataFrame]:
    config, seed, machine = task.config.upernet, bundle.manifest["seed"], task.machine
    torch.manual_seed(seed)
    net = UPerNet(tunable(bundle.encoder, config.drop_path), task.num_classes, task.config.net)
    model = UPerNetSegmenter(net, task.config.net.aux_weight)
    prepare(model, machine)
    inputs = Normalised(bundle, machine.device)

    def views(pixels: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        return {"images": normalise(pixels, inputs)}

    source = _source(task, config, seed, task.train, views)
    name = f"segment/upernet/{bundle.manifest['method']}"
    curve = tune(
        model,
        source,
        model.groups(config),
        config,
        machine,
        name=name,
        seed=seed,
        tracker=task.tracker,
    )
    model.eval()
    taps = "blocks " + ",".join(map(str, net.taps))
    return (lambda pixels: net(normalise(pixels, inputs))[0]), taps, curve


def _source(
    task: _Task, config: TuneConfig, seed: int, images: Images, views: Views
) -> TargetLoader:
    """Batches of `views` with their pixel classes, in an order fixed by the seed."""
    size = min(config.batch_size, len(images))
    loader = ImageLoader(images, views, size, seed, task.machine.device)
    jitter = task.config.jitter

    def add_classes(batch: Batch) -> Batch:
        semantic = _semantic(task, "train", task.train.rows[batch["index"].cpu().numpy()])
        if "images" not in batch or jitter.is_idle:
            return {**batch, "semantic": semantic}
        placement = draw_placement(batch["key"], jitter)
        moved = place_images(batch["images"], placement)
        return {**batch, "images": moved, "semantic": place_classes(semantic, placement)}

    return TargetLoader(loader, add_classes)


def _semantic(task: _Task, split: Split, rows: np.ndarray) -> Tensor:
    classes = task.store[split].semantic
    if classes is None:
        raise ValueError(f"the store's {split} split has no pixel classes")
    return torch.from_numpy(np.array(classes[rows])).to(task.machine.device)


@torch.no_grad()
def _evaluate(task: _Task, predict: Predict, title: str) -> tuple[Tensor, np.ndarray]:
    """The confusion matrix of the val images, and the classes predicted for the pictured ones."""
    confusion = torch.zeros(task.num_classes, task.num_classes, dtype=torch.int64)
    predicted = []
    parts = chunks(len(task.val), EVAL_BATCH)
    for part in track(parts, title, len(parts)):
        truth = _semantic(task, "val", task.val.rows[part])
        with task.machine.autocast():
            scores = predict(torch.from_numpy(task.val.__getitems__(part)))
        classes = resize_like(scores.float(), truth).argmax(dim=1).to(torch.uint8)
        confusion += confusion_matrix(truth, classes, task.num_classes).cpu()
        predicted.append(classes.cpu().numpy())
    return confusion, np.concatenate(predicted)[_pictured(task)]


def _pictured(task: _Task) -> np.ndarray:
    return spread(len(task.val), task.config.pictures)


def _pictures(task: _Task, bundle: EncoderBundle) -> StageOutput:
    """The pictured val images and their true classes."""
    method, shown = bundle.manifest["method"], _pictured(task)
    truth = _semantic(task, "val", task.val.rows[shown]).cpu().numpy()
    arrays = {f"{method}/images": task.val.__getitems__(shown), f"{method}/truth": truth}
    return StageOutput(arrays=arrays)
