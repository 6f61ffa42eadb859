"""Semantic segmentation: what an encoder knows about every pixel, frozen and fine-tuned."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from contramask.data.loader import Batch, ImageLoader, Images, Subset, Views
from contramask.data.record import Split
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.models.dpt import check_fits, check_installed
from contramask.models.upernet import resize_like
from contramask.progress import track
from contramask.results import StageOutput, made_with, result_row
from contramask.tracker import Tracker
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine, prepare
from contramask.transfer.dense import (
    TargetLoader,
    TuneConfig,
    chunks,
    enlarged,
    joined,
    made_for,
    normalise,
    rounded,
    some,
    spread,
    tunable,
    tune,
)
from contramask.transfer.features import Normalised
from contramask.transfer.jitter import (
    draw_placement,
    draw_window,
    place_classes,
    place_images,
)
from contramask.transfer.metric_names import metric_prefix
from contramask.transfer.metrics import confusion_matrix, per_class_table, segmentation_scores
from contramask.transfer.segment_config import Head, SegmentationConfig, TunedHead
from contramask.transfer.segmenters import (
    CachedFeatures,
    FrozenEncoder,
    LinearSegmenter,
    build_segmenter,
)
from contramask.transfer.windows import slide
from contramask.typed import to_plain

log = logging.getLogger(__name__)

#: Scores (B, K, h, w) of stored images uint8 (B, H, W, C).
Predict = Callable[[Tensor], Tensor]
#: Most images an evaluation step, and most scores it holds at once.
EVAL_BATCH, EVAL_SCORES = 128, 2**28


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

    Rows: miou, macc, aacc, fwiou in percent for each head, whose name is the protocol, at the
    store's resolution, whole images. Skipped when the store has no pixel classes or no val images.
    Raises `ValueError` at once for heads that this machine or this encoder cannot have.
    """
    reason = _unsuited(store)
    if reason:
        log.warning("segmentation is skipped: %s", reason)
        return StageOutput.skipped("segmentation", reason)
    started = time.perf_counter()
    val_split = store["val"]
    train, val = some(store["train"], config.train_limit), some(val_split, config.val_limit)
    task = _Task(store, config, pick_machine(launch), tracker, train, val)
    if "dpt" in config.heads:
        check_installed(config.heads)
        _check_dpt(task, bundle)
    bundles = [bundle, random_init_bundle(bundle)] if config.anchor else [bundle]
    parts = []
    for one in bundles:
        large = enlarged(one, (val_split.height, val_split.width), config.upscale)
        parts += [_pictures(task, large), *(_measure(task, large, head) for head in config.heads)]
    seconds = round(time.perf_counter() - started, 1)
    return joined(parts, {**_facts(task), "seconds": seconds}).measured_on(store.manifest["name"])


def _unsuited(store: Store) -> str:
    """Why the store cannot be segmented, empty when it can."""
    if not store.has_semantic:
        return "the images have no classes per pixel"
    if "val" not in store or not len(store["val"]):
        return "there are no validation images"
    if len(store["train"]) < 2:
        return "there are fewer than two training images"
    return ""


def _check_dpt(task: _Task, bundle: EncoderBundle) -> None:
    """Raise `ValueError` before anything is trained where DPT does not fit the images."""
    config, split, patch_size = task.config, task.store["val"], bundle.encoder.patch_size
    if config.crop is not None:
        check_fits(patch_size, config.crop, "segmentation.crop")
    else:
        rows, cols = split.height * config.upscale, split.width * config.upscale
        check_fits(patch_size, (round(rows), round(cols)), "segmentation.upscale")


def _facts(task: _Task) -> dict[str, Any]:
    config, split = task.config, task.store["val"]
    size = [round(side * config.upscale) for side in (split.height, split.width)]
    return {
        "stage": "segmentation",
        "config": to_plain(task.config),
        "train_images": len(task.train),
        "val_images": len(task.val),
        "encoder_input": size,
        "classes": task.store.manifest["semantic_classes"],
        "inference": f"{_inference(config)}, scored at the store's resolution, one scale",
        "machine": machine_name(),
        **made_with(),
    }


def _inference(config: SegmentationConfig) -> str:
    heads = " and ".join(head for head in config.heads if head != "linear")
    if config.crop is None or not heads:
        return "whole image"
    rows, cols = config.crop
    return f"{heads} by windows of {rows}x{cols} px, {config.stride:.0%} of a side apart"


def _measure(task: _Task, bundle: EncoderBundle, head: Head) -> StageOutput:
    """Train one head on one encoder and score it on the val images."""
    method, manifest = bundle.manifest["method"], bundle.manifest
    if head == "linear":
        predict, readout, curve = _train_linear(task, bundle)
    else:
        predict, readout, curve = _train_tuned(task, bundle, head)
    confusion, pictured = _evaluate(task, predict, f"evaluate {head} {method}")
    scores = segmentation_scores(confusion)
    log.info("segmentation, %s, %s: %s", method, head, rounded(scores))
    name, step = metric_prefix(bundle.manifest, "segmentation", head), int(curve["step"].iloc[-1])
    task.tracker.log({f"{name}/{k}": v for k, v in scores.items()}, step)
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
    name = metric_prefix(bundle.manifest, "segmentation", "linear")
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


def _train_tuned(
    task: _Task, bundle: EncoderBundle, head: TunedHead
) -> tuple[Predict, str, pd.DataFrame]:
    config = task.config.upernet if head == "upernet" else task.config.dpt
    seed, machine, window = bundle.manifest["seed"], task.machine, task.config.crop
    torch.manual_seed(seed)
    encoder = made_for(bundle, window, "segmentation.crop").encoder if window else bundle.encoder
    trained = tunable(encoder, config.drop_path)
    model = build_segmenter(head, trained, task.num_classes, task.config)
    prepare(model, machine)
    inputs = Normalised(bundle, machine.device)

    def views(pixels: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        return {"images": normalise(pixels, inputs)}

    source = _source(task, config, seed, task.train, views)
    groups, name = model.groups(config), metric_prefix(bundle.manifest, "segmentation", head)
    curve = tune(model, source, groups, config, machine, name=name, seed=seed, tracker=task.tracker)
    model.eval()

    def predict(pixels: Tensor) -> Tensor:
        images = normalise(pixels, inputs)
        if window is None:
            return model.scores(images)
        step = [max(round(side * task.config.stride), 1) for side in window]
        return slide(model.scores, images, window, (step[0], step[1]))

    return predict, "blocks " + ",".join(map(str, model.taps)), curve


def _source(
    task: _Task, config: TuneConfig, seed: int, images: Images, views: Views
) -> TargetLoader:
    """Batches of `views` with their pixel classes, in an order fixed by the seed."""
    size = min(config.batch_size, len(images))
    loader = ImageLoader(images, views, size, seed, task.machine.device)
    jitter, window = task.config.jitter, task.config.crop

    def add_classes(batch: Batch) -> Batch:
        semantic = _semantic(task, "train", task.train.rows[batch["index"].cpu().numpy()])
        if "images" not in batch or (jitter.is_idle and window is None):
            return {**batch, "semantic": semantic}
        images = batch["images"]
        if window is None:
            placement = draw_placement(batch["key"], jitter)
        else:
            shown = (window[1] / images.shape[3], window[0] / images.shape[2])
            share = task.config.max_class_share
            placement = draw_window(batch["key"], jitter, semantic, shown, share)
        moved = place_images(images, placement, window, jitter.halvings)
        return {**batch, "images": moved, "semantic": place_classes(semantic, placement, window)}

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
    area = task.store["val"].height * task.store["val"].width * task.config.upscale**2
    fits = int(EVAL_SCORES // max(area * task.num_classes, 1))
    parts = chunks(len(task.val), max(1, min(EVAL_BATCH, fits)))
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
