"""Semantic segmentation: what an encoder knows about every pixel, frozen and fine-tuned."""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from contramask.data.store import Store
from contramask.failures import ANEW, SMALLER, explained
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.models.dpt import check_fits, check_installed
from contramask.models.upernet import resize_like
from contramask.progress import track
from contramask.results import StageOutput, made_with, result_row
from contramask.tracker import Tracker
from contramask.train.device import LaunchConfig, machine_name, pick_machine
from contramask.transfer.dense import (
    chunks,
    joined,
    rounded,
    some,
    spread,
)
from contramask.transfer.metric_names import metric_prefix
from contramask.transfer.metrics import confusion_matrix, per_class_table, segmentation_scores
from contramask.transfer.running import work_of
from contramask.transfer.segment_config import Head, SegmentationConfig
from contramask.transfer.segment_training import (
    Predict,
    SegmentationTask,
    semantic_of,
    train_linear,
    train_tuned,
)
from contramask.typed import to_plain

log = logging.getLogger(__name__)

#: Most images an evaluation step, and most scores it holds at once.
EVAL_BATCH, EVAL_SCORES = 128, 2**28
#: Keys that change what is measured or shown, and no training.
_FREE = ("anchor", "cache_megabytes", "heads", "pictures", "stride", "val_limit")


def run_segmentation(
    bundle: EncoderBundle,
    store: Store,
    config: SegmentationConfig,
    launch: LaunchConfig,
    tracker: Tracker,
    work: Path | None = None,
) -> StageOutput:
    """Segment with one encoder (and its random-init anchor), each head on the same batches.

    Rows: miou, macc, aacc, fwiou in percent for each head, whose name is the protocol, at the
    store's resolution, whole images. Skipped when the store has no pixel classes or no val images.
    Running checkpoints lie in `work` until they are forgotten (`train.leftovers`). Raises
    `ValueError` at once for heads that this machine or this encoder cannot have.
    """
    reason = _unsuited(store)
    if reason:
        log.warning("segmentation is skipped: %s", reason)
        return StageOutput.skipped("segmentation", reason)
    started = time.perf_counter()
    train, val = some(store["train"], config.train_limit), some(store["val"], config.val_limit)
    kept = work_of(work, "segmentation", config, _FREE, store, launch)
    task = SegmentationTask(store, config, pick_machine(launch), tracker, train, val, kept)
    if "dpt" in config.heads:
        check_installed(config.heads)
        _check_dpt(task, bundle)
    parts = explained(partial(_parts, task, bundle), work or store.folder, lambda: SMALLER, ANEW)
    seconds = round(time.perf_counter() - started, 1)
    return joined(parts, {**_facts(task), "seconds": seconds}).measured_on(store.manifest["name"])


def _parts(task: SegmentationTask, bundle: EncoderBundle) -> list[StageOutput]:
    config, parts = task.config, list[StageOutput]()
    for one in [bundle, random_init_bundle(bundle)] if config.anchor else [bundle]:
        parts += [_pictures(task, one), *(_measure(task, one, head) for head in config.heads)]
    return parts


def _unsuited(store: Store) -> str:
    """Why the store cannot be segmented, empty when it can."""
    if not store.has_semantic:
        return "the images have no classes per pixel"
    if "val" not in store or not len(store["val"]):
        return "there are no validation images"
    if len(store["train"]) < 2:
        return "there are fewer than two training images"
    return ""


def _check_dpt(task: SegmentationTask, bundle: EncoderBundle) -> None:
    """Raise `ValueError` before anything is trained where DPT does not fit the images."""
    config, patch_size = task.config, bundle.encoder.patch_size
    if config.crop is not None:
        check_fits(patch_size, config.crop, "segmentation.crop")
    else:
        check_fits(patch_size, task.shown_size, "segmentation.upscale")


def _facts(task: SegmentationTask) -> dict[str, Any]:
    config = task.config
    return {
        "stage": "segmentation",
        "config": to_plain(task.config),
        "train_images": len(task.train),
        "val_images": len(task.val),
        "encoder_input": list(task.shown_size),
        "classes": task.store.manifest["semantic_classes"],
        "inference": f"{_inference(config)}, scored at the store's resolution, one scale",
        "machine": machine_name(task.machine.device),
        **made_with(),
    }


def _inference(config: SegmentationConfig) -> str:
    heads = " and ".join(head for head in config.heads if head != "linear")
    if config.crop is None or not heads:
        return "whole image"
    rows, cols = config.crop
    return f"{heads} by windows of {rows}x{cols} px, {config.stride:.0%} of a side apart"


def _measure(task: SegmentationTask, bundle: EncoderBundle, head: Head) -> StageOutput:
    """Train one head on one encoder and score it on the val images."""
    method, manifest = bundle.manifest["method"], bundle.manifest
    if head == "linear":
        predict, readout, curve = train_linear(task, bundle)
    else:
        predict, readout, curve = train_tuned(task, bundle, head)
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


@torch.no_grad()
def _evaluate(task: SegmentationTask, predict: Predict, title: str) -> tuple[Tensor, np.ndarray]:
    """The confusion matrix of the val images, and the classes predicted for the pictured ones."""
    confusion = torch.zeros(task.num_classes, task.num_classes, dtype=torch.int64)
    predicted, shown = [], _pictured(task)
    rows, cols = task.shown_size
    fits = EVAL_SCORES // max(rows * cols * task.num_classes, 1)
    parts = chunks(len(task.val), max(1, min(EVAL_BATCH, fits)))
    for part in track(parts, title, len(parts)):
        truth = semantic_of(task, "val", task.val.rows[part])
        with task.machine.autocast():
            scores = predict(torch.from_numpy(task.val.__getitems__(part)))
        classes = resize_like(scores.float(), truth).argmax(dim=1).to(torch.uint8)
        confusion += confusion_matrix(truth, classes, task.num_classes).cpu()
        kept = torch.from_numpy(np.flatnonzero(np.isin(part, shown)))
        predicted.append(classes[kept.to(classes.device)].cpu().numpy())
    return confusion, np.concatenate(predicted)


def _pictured(task: SegmentationTask) -> np.ndarray:
    return spread(len(task.val), task.config.pictures)


def _pictures(task: SegmentationTask, bundle: EncoderBundle) -> StageOutput:
    """The pictured val images and their true classes."""
    method, shown = bundle.manifest["method"], _pictured(task)
    truth = semantic_of(task, "val", task.val.rows[shown]).cpu().numpy()
    arrays = {f"{method}/images": task.val.__getitems__(shown), f"{method}/truth": truth}
    return StageOutput(arrays=arrays)
