"""Probes of a frozen encoder: nothing of it is trained, and one pass over the images serves all."""

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from contramask.data.loader import Subset
from contramask.data.store import Store
from contramask.failures import ANEW, SMALLER, explained
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.results import StageOutput, made_with, result_row
from contramask.tracker import Tracker
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine
from contramask.transfer.attentive import attentive_probe, token_rows
from contramask.transfer.classifiers import top1
from contramask.transfer.dense import spread
from contramask.transfer.dense_probe import dense_probe
from contramask.transfer.feature_cache import FeatureCache, Features, Source, Wanted
from contramask.transfer.features import (
    READOUTS,
    RandomCrops,
    centred,
    extract_features,
    labelled,
    nothing_to_probe,
    readout_names,
    side_by_side,
    unlabelled,
)
from contramask.transfer.metric_names import metric_prefix
from contramask.transfer.pictured import (
    PicturesConfig,
    looks,
    neighbours,
    one_of_each,
    thumbnails,
)
from contramask.transfer.probe_config import ProbeConfig
from contramask.transfer.readout import Labelled, Measured, measure_readout, measure_unlabelled
from contramask.transfer.running import Named, Work
from contramask.transfer.spectrum import alignment
from contramask.transfer.strict_linear import strict_linear
from contramask.typed import to_plain

log = logging.getLogger(__name__)

#: Below this an attentive probe has nothing to hold out and no batch to normalise.
_FEWEST_IMAGES = 20
#: What is told of each readout as soon as it is measured.
_SAID = (("knn", "knn_top1"), ("linear", "linear_top1"), ("spectrum", "rankme"))


@plain_dataclass(frozen=True)
class _Stage:
    """What all measurements of one call share."""

    store: Store
    config: ProbeConfig
    machine: Machine
    cache: FeatureCache
    work: Work
    unlabelled: str  # why nothing can be classified, empty when something can

    def images(self, split: str) -> Subset:
        """The images that are measured: labelled ones, or all where labels are of no use."""
        images = self.store[split]
        return Subset(images, np.arange(len(images))) if self.unlabelled else labelled(images)


@plain_dataclass
class _Found:
    """What was measured on one encoder."""

    manifest: Mapping[str, Any]
    rows: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]
    chosen: dict[str, dict[str, float]]
    tables: dict[str, pd.DataFrame]

    def add(self, split: str, protocol: str, readout: str, metric: str, value: float) -> None:
        row = result_row(self.manifest, split, protocol, readout, metric, value)
        self.rows.append(row)

    def metrics(self) -> dict[str, float]:
        """All numbers by the name under which they are tracked."""
        prefix = metric_prefix(self.manifest, "probe")
        names = ("readout", "protocol", "metric")
        return {"/".join([prefix, *(row[n] for n in names)]): row["value"] for row in self.rows}


def run_probe(
    bundle: EncoderBundle,
    store: Store,
    config: ProbeConfig,
    launch: LaunchConfig,
    tracker: Tracker,
    work: Path | None = None,
    running: Path | None = None,
) -> StageOutput:
    """Probe one encoder (and its random-init anchor) on the store's labels and masks.

    Rows: percentages for each readout and protocol; `spectrum` alone has units of its own, and
    alone remains, with the pictures, where no image has a label: the fact `without_labels` says
    why. Features are kept in `work` for the next call, or thrown away without it; running
    checkpoints of longer probes lie in `running` until they are forgotten (`train.leftovers`).
    Skipped without val images.
    """
    reason = nothing_to_probe(store)
    if reason:
        log.warning("the probe is skipped: %s", reason)
        return StageOutput.skipped("probe", reason)
    unused = unlabelled(store)
    if unused:
        log.warning("the probe measures only what needs no label: %s", unused)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        cache = FeatureCache(work or Path(scratch), config.cache_megabytes)
        kept = Work(running, "probe", {}, store.data_hash, launch.keep_last)
        stage = _Stage(store, config, pick_machine(launch), cache, kept, unused)
        probed = partial(_probe_all, bundle, stage, tracker)
        found = explained(probed, cache.folder, lambda: SMALLER, ANEW)
    for one in found:
        tracker.log(one.metrics(), 0)
    facts = {
        "stage": "probe",
        "config": to_plain(config),
        "classes": store.manifest["classes"],
        "chosen": {one.manifest["method"]: one.chosen for one in found},
        "machine": machine_name(stage.machine.device),
        "seconds": round(time.perf_counter() - started, 1),
        **({"without_labels": unused} if unused else {}),
        **made_with(),
    }
    rows = [row for one in found for row in one.rows]
    arrays = {name: array for one in found for name, array in one.arrays.items()}
    tables = {name: table for one in found for name, table in one.tables.items()}
    output = StageOutput(pd.DataFrame(rows), tables, arrays, facts)
    return output.measured_on(store.manifest["name"])


def _probe_all(bundle: EncoderBundle, stage: _Stage, tracker: Tracker) -> list[_Found]:
    found = [_probe_one(bundle, stage, tracker)]
    if stage.config.anchor:
        found.append(_probe_one(random_init_bundle(bundle), stage, tracker))
    return found


def _probe_one(bundle: EncoderBundle, stage: _Stage, tracker: Tracker) -> _Found:
    found = _Found(bundle.manifest, [], {}, {}, {})
    config, store = stage.config, stage.store
    train, val = _features(bundle, stage, "train"), _features(bundle, stage, "val")
    _measure_readouts(bundle, stage, train, val, found)
    if not stage.unlabelled:
        if config.attentive and len(train.token_rows) >= _FEWEST_IMAGES:
            _measure_attentive(bundle, stage, train, val, tracker, found)
        if config.strict_linear:
            _measure_strict(bundle, stage, val, tracker, found)
    if config.pictures:
        _picture(bundle, stage, (train, val), config.pictures, found)
    if config.dense and store.has_semantic:
        for protocol, scores in dense_probe(
            bundle, store, stage.cache, config.dense, stage.machine
        ).items():
            for metric, value in scores.items():
                found.add("val", protocol, "patch", metric, value)
    return found


def _features(bundle: EncoderBundle, stage: _Stage, split: str) -> Features:
    images = stage.images(split)
    config, tokens = stage.config, np.array([], np.int64)
    if config.attentive and not stage.unlabelled:
        tokens = token_rows(config.attentive, split, len(images), bundle.encoder)
    source = Source(images, split, stage.store.data_hash)
    wanted = Wanted(config.blocks, tokens, config.eval_crop)
    features = stage.cache.features(bundle, source, wanted, stage.machine)
    names = readout_names(config.blocks)
    broken = [name for name in names if not np.isfinite(features.arrays[name]).all()]
    if broken:
        raise ValueError(
            f"features of {bundle.manifest['method']} ({', '.join(broken)}) are not finite: the "
            "encoder is broken; train it again with a lower learning rate or launch.precision=fp32"
        )
    return features


def _measure_readouts(
    bundle: EncoderBundle, stage: _Stage, train: Features, val: Features, found: _Found
) -> None:
    config, method = stage.config, bundle.manifest["method"]
    views = _views(bundle, stage)
    for name in dict.fromkeys([*config.readouts, *readout_names(config.blocks)[len(READOUTS) :]]):
        measured = _measured(stage, train, val, name, bundle.manifest["seed"])
        if views:
            first, second = (side_by_side(view, name) for view in views)
            measured.add("spectrum", "alignment", alignment(first, second))
        for split, protocol, metric, value in measured.numbers:
            found.add(split, protocol, name, metric, value)
        found.chosen[name] = measured.chosen
        said = [f"{m} {v:.1f}" for _, p, m, v in measured.numbers if (p, m) in _SAID]
        log.info("%s, %s: %s", method, name, ", ".join(said))
    found.arrays[f"{method}/features"] = val.readout("mean").to(torch.float16).numpy()
    found.arrays[f"{method}/labels"] = val.labels.numpy()


def _measured(stage: _Stage, train: Features, val: Features, name: str, seed: int) -> Measured:
    """The numbers of one readout."""
    if stage.unlabelled:
        return measure_unlabelled(train.readout(name), val.readout(name))
    data = Labelled(
        *(train.readout(name), train.labels, val.readout(name), val.labels),
        num_classes=stage.store.num_classes,
    )
    return measure_readout(data, stage.config, seed)


def _views(bundle: EncoderBundle, stage: _Stage) -> list[dict[str, Tensor]]:
    """Features of two views of some val images: as they are probed, and a random crop."""
    if not stage.config.alignment_images:
        return []
    val, config, device = stage.images("val"), stage.config, stage.machine.device
    some = Subset(val, spread(len(val), config.alignment_images))
    views = (centred(bundle, device, config.eval_crop), RandomCrops(bundle, device))
    read = partial(extract_features, bundle, some, stage.machine, blocks=config.blocks)
    return [read(inputs=view) for view in views]


def _measure_attentive(
    bundle: EncoderBundle,
    stage: _Stage,
    train: Features,
    val: Features,
    tracker: Tracker,
    found: _Found,
) -> None:
    config, manifest = stage.config.attentive, bundle.manifest
    if config is None:
        return
    rows, cols = bundle.encoder.grid_size
    for pooling in dict.fromkeys(config.poolings):
        name, extent = metric_prefix(manifest, "probe", "attentive", pooling), to_plain(config)
        keeper = stage.work.keeper(f"attentive-{pooling}", bundle, {"attentive": extent})
        named = Named(name, manifest["seed"], tracker, keeper)
        result = attentive_probe(train, val, pooling, config, stage.machine, named)
        found.add("val", f"attentive {pooling}", "patch", "attentive_top1", result.top1)
        found.chosen[f"attentive {pooling}"] = {
            "learning_rate": result.learning_rate,
            "train_images": len(train.token_rows),
            "val_images": len(val.token_rows),
        }
        log.info("%s: attentive %s %.1f", manifest["method"], pooling, result.top1)
        maps = result.attention.reshape(*result.attention.shape[:2], rows, cols)
        found.arrays[f"{manifest['method']}/attention_{pooling}"] = maps
    shown = labelled(stage.store["val"]).__getitems__(val.token_rows[result.places])
    found.arrays[f"{manifest['method']}/attention_images"] = thumbnails(shown)


def _measure_strict(
    bundle: EncoderBundle, stage: _Stage, val: Features, tracker: Tracker, found: _Found
) -> None:
    if stage.config.strict_linear is None:
        return
    images, config = labelled(stage.store["train"]), stage.config.strict_linear
    keeper = stage.work.keeper("linear-mae", bundle, {"strict_linear": to_plain(config)})
    trained = strict_linear(
        *(bundle, images, stage.store.num_classes, config, stage.machine, tracker, keeper)
    )
    for name in READOUTS:
        value = top1(trained.scores(name, val.readout(name)), val.labels)
        found.add("val", "linear MAE", name, "linear_top1", value)
        log.info("%s, %s: linear by MAE's recipe %.1f", bundle.manifest["method"], name, value)


def _picture(
    bundle: EncoderBundle,
    stage: _Stage,
    features: tuple[Features, Features],
    config: PicturesConfig,
    found: _Found,
) -> None:
    method = bundle.manifest["method"]
    train, val = (stage.images(split) for split in ("train", "val"))
    seen = looks(bundle, val, one_of_each(val.labels, config.looks), stage.machine)
    near = neighbours((train, val), features, config)
    for name, array in {**seen, **near.arrays}.items():
        found.arrays[f"{method}/{name}"] = array
    found.tables[f"{method}-near"] = near.tables["near"]
