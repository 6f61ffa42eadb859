"""Detection and instance segmentation: Mask R-CNN on the encoder, scored as COCO scores it."""

import logging
import time
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.data.loader import Batch, ImageLoader, Subset
from contramask.data.prefetch import sent, staged
from contramask.data.resident import placed
from contramask.data.store import Store
from contramask.failures import ANEW, SMALLER, explained, within_memory
from contramask.methods.base import StepOutput
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.models.family import for_tuning, set_drop_path
from contramask.models.mask_rcnn import DetectorConfig, FasterRCNN, MaskRCNN, windowed
from contramask.progress import track
from contramask.results import StageOutput, made_with, result_row
from contramask.tracker import Tracker
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine, prepare
from contramask.train.optim import layer_decay_groups
from contramask.train.parts import largest_step
from contramask.transfer.coco_results import score
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
    tune,
)
from contramask.transfer.features import Normalised
from contramask.transfer.instances import objects_of, pictured_boxes, results_of
from contramask.transfer.jitter import (
    JitterConfig,
    draw_placement,
    place_images,
    place_objects,
    recolour,
)
from contramask.transfer.metric_names import metric_prefix
from contramask.transfer.mistakes import crops, detection_mistakes
from contramask.transfer.running import Named, Work, work_of
from contramask.typed import STRICT, to_plain

log = logging.getLogger(__name__)

#: Most images an evaluation step, and most pixels of them that the encoder reads at once.
EVAL_BATCH, EVAL_PIXELS = 64, 2**22
#: Keys that change what is measured or shown, and no training.
_FREE = ("anchor", "enabled", "pictures", "val_limit")


@dataclass(frozen=True, config=STRICT)
class DetectorTune(TuneConfig):
    """Training of the detector together with the encoder."""

    epochs: int = Field(default=2, ge=1)
    batch_size: int = Field(default=16, ge=2)
    lr: float = Field(default=1e-3, gt=0)


@dataclass(frozen=True, config=STRICT)
class DetectionConfig:
    """How the detector is built and trained; encoder and detector learn together.

    The defaults suit the digit scenes on two cores; `DetectorConfig` names ViTDet's values.
    """

    enabled: bool = True  # false: the stage skips itself
    train_limit: int | None = Field(default=2000, ge=2)  # images, spread over the train split
    val_limit: int | None = Field(default=500, ge=1)
    upscale: float = Field(default=1.0, gt=0)  # the encoder reads images this much larger
    tune: DetectorTune = field(default_factory=DetectorTune)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    jitter: JitterConfig = field(default_factory=JitterConfig)
    pictures: int = Field(default=8, ge=0)
    anchor: bool = True  # measure the random-init encoder beside the trained one


@plain_dataclass(frozen=True)
class _Task:
    """What both encoders of one run share."""

    store: Store
    config: DetectionConfig
    machine: Machine
    tracker: Tracker
    train: Subset
    val: Subset
    work: Work

    @property
    def classes(self) -> list[str]:
        names: list[str] = self.store.manifest["instance_classes"]
        return names


class Detector(torch.nn.Module):
    """Makes of the detector's named losses one loss, as the training loop expects."""

    def __init__(self, net: FasterRCNN) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss, the sum of the terms, from `images` and `targets`."""
        losses = self.net(batch["images"], batch["targets"])
        total = torch.stack([value.float() for value in losses.values()]).sum()
        return StepOutput(total, {name: value.detach() for name, value in losses.items()})


def run_detection(
    bundle: EncoderBundle,
    store: Store,
    config: DetectionConfig,
    launch: LaunchConfig,
    tracker: Tracker,
    work: Path | None = None,
) -> StageOutput:
    """Detect with one encoder (and its random-init anchor), trained on the same batches.

    Rows: COCO's twelve numbers of boxes (box_ap, box_ap50, ..., box_arl) and, where the store has
    masks, of masks (mask_ap, ...), in percent, in the store's pixels, without what no object could
    tell; protocol `mask_rcnn`, or `faster_rcnn` for boxes only, with `cascade_` before it where
    three box heads follow each other. Files: `<method>-results` and `ground_truth`, as COCO
    writes them, for `contramask evaluate detection`. Skipped when the store has no objects
    or no val images. Running checkpoints lie in `work` until they are forgotten
    (`train.leftovers`).
    """
    reason = _unsuited(store) if config.enabled else "detection.enabled is false"
    if reason:
        log.warning("detection is skipped: %s", reason)
        return StageOutput.skipped("detection", reason)
    started = time.perf_counter()
    train, val = some(store["train"], config.train_limit), some(store["val"], config.val_limit)
    kept = work_of(work, "detection", config, _FREE, store, launch)
    task = _Task(store, config, pick_machine(launch), tracker, train, val, kept)
    bundles = [bundle, random_init_bundle(bundle)] if config.anchor else [bundle]
    stored = (store["val"].height, store["val"].width)

    def measured() -> list[StageOutput]:
        return [_measure(task, enlarged(one, stored, config.upscale)) for one in bundles]

    parts = explained(measured, work or store.folder, lambda: SMALLER, ANEW)
    seconds = round(time.perf_counter() - started, 1)
    return joined(parts, {**_facts(task), "seconds": seconds}).measured_on(store.manifest["name"])


def _unsuited(store: Store) -> str:
    """Why nothing can be detected in the store, empty when something can."""
    if not store.has_instances:
        return "the images have no objects with boxes"
    if "val" not in store or not len(store["val"]):
        return "there are no validation images"
    if len(store["train"]) < 2:
        return "there are fewer than two training images"
    return ""


def _facts(task: _Task) -> dict[str, Any]:
    split = task.store["val"]
    size = [round(side * task.config.upscale) for side in (split.height, split.width)]
    return {
        "stage": "detection",
        "config": to_plain(task.config),
        "train_images": len(task.train),
        "val_images": len(task.val),
        "encoder_input": size,
        "classes": task.classes,
        "machine": machine_name(task.machine.device),
        **made_with(),
    }


def _measure(task: _Task, bundle: EncoderBundle) -> StageOutput:
    """Train the detector on one encoder and score it on the val images."""
    method, manifest = bundle.manifest["method"], bundle.manifest
    net, curve = _train(task, bundle)
    found = _detect_all(task, bundle, net)
    with_masks = isinstance(net, MaskRCNN)
    scored = score(task.store["val"], task.val.rows, task.classes, found, with_masks)
    scores = scored.scores
    protocol = "mask_rcnn" if with_masks else "faster_rcnn"
    if task.config.detector.cascade:
        protocol = f"cascade_{protocol}"
    log.info("detection, %s: %s", method, rounded(scored.main))
    name, step = metric_prefix(bundle.manifest, "detection"), int(curve["step"].iloc[-1])
    task.tracker.log({f"{name}/{k}": v for k, v in scores.items()}, step)
    rows = [result_row(manifest, "val", protocol, "last map", k, v) for k, v in scores.items()]
    shown = spread(len(task.val), task.config.pictures)
    tables = {
        f"{method}-boxes": pictured_boxes(found, task.val.rows[shown]),
        f"{method}-per_class": scored.by_class,
        f"{method}-curve": curve,
    }
    arrays = {f"{method}/images": task.val.__getitems__(shown)}
    split = task.store["val"]
    mistakes = detection_mistakes(found, split, task.val.rows, task.config.pictures)
    if len(mistakes):
        tables[f"{method}-mistakes"] = mistakes
        arrays[f"{method}/mistakes"] = crops(mistakes, split)
    files = {"ground_truth": scored.truth, f"{method}-results": found}
    return StageOutput(pd.DataFrame(rows), tables, arrays, files=files)


def _train(task: _Task, bundle: EncoderBundle) -> tuple[FasterRCNN, pd.DataFrame]:
    config, seed, machine = task.config.tune, bundle.manifest["seed"], task.machine
    torch.manual_seed(seed)
    kind = MaskRCNN if task.store.has_instance_masks else FasterRCNN
    encoder = windowed(for_tuning(bundle.encoder), task.config.detector)
    set_drop_path(encoder.blocks, config.drop_path)
    net = kind(encoder, len(task.classes), task.config.detector)
    model = prepare(Detector(net), machine)
    source = _source(task, bundle, seed)
    heads: list[torch.nn.Module] = [net.pyramid, net.rpn, net.roi_heads]
    groups = layer_decay_groups(encoder, heads, config.weight_decay, config.layer_decay)
    name = metric_prefix(bundle.manifest, "detection")
    named = Named(name, seed, task.tracker, task.work.keeper("detector", bundle))
    curve = within_memory(
        partial(tune, model, source, groups, config, machine, named),
        partial(largest_step, model, source, machine, "detection.tune.batch_size"),
    )
    return net.eval(), curve


def _source(task: _Task, bundle: EncoderBundle, seed: int) -> TargetLoader:
    """Batches with their objects, in an order fixed by the seed."""
    inputs = Normalised(bundle, task.machine.device)
    split, jitter = task.store["train"], task.config.jitter
    rows, size = task.train.rows, bundle.encoder.image_size

    def views(pixels: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        return {"images": normalise(recolour(pixels, key, jitter), inputs)}

    def add_objects(batch: Batch, numbers: np.ndarray) -> Batch:
        # Batch by batch: the masks of all images of a large set would fill any memory.
        shown = rows[numbers].tolist()
        chosen = [_to(objects_of(split, row, size), task.machine) for row in shown]
        if jitter.is_idle:
            return {**batch, "targets": chosen}
        placement = draw_placement(batch["key"], jitter)
        single = torch.arange(len(chosen), device=task.machine.device)[:, None]
        moved = [place_objects(t, placement[i], size) for t, i in zip(chosen, single, strict=True)]
        images = place_images(batch["images"], placement, halvings=jitter.halvings)
        return {**batch, "images": images, "targets": moved}

    count = min(task.config.tune.batch_size, len(task.train))
    device = task.machine.device
    images = placed(task.train, device, task.machine.resident)
    return TargetLoader(ImageLoader(images, views, count, seed, device), add_objects)


def _to(target: dict[str, Tensor], machine: Machine) -> dict[str, Tensor]:
    device = machine.device
    return {name: sent(staged(value.numpy(), device), device) for name, value in target.items()}


@torch.no_grad()
def _detect_all(task: _Task, bundle: EncoderBundle, net: FasterRCNN) -> list[dict[str, Any]]:
    """COCO results of all val images, in the store's pixels; image_id is the row of the split."""
    inputs = Normalised(bundle, task.machine.device)
    results = []
    rows, cols = bundle.encoder.image_size
    parts = chunks(len(task.val), max(1, min(EVAL_BATCH, EVAL_PIXELS // (rows * cols))))
    for part in track(parts, f"evaluate {bundle.manifest['method']}", len(parts)):
        images = normalise(torch.from_numpy(task.val.__getitems__(part)), inputs)
        with task.machine.autocast():
            detections = net.detect(images)
        for row, found in zip(task.val.rows[part].tolist(), detections, strict=True):
            results += results_of(row, found, task.store["val"], bundle.encoder.image_size)
    return results
