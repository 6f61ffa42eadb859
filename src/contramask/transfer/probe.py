"""Probes of a frozen encoder: nearest neighbours, linear and few-shot classifiers."""

import logging
import time
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.results import StageOutput, result_row
from contramask.tracker import Tracker
from contramask.train.device import LaunchConfig, machine_name, pick_machine
from contramask.transfer.classifiers import (
    knn_votes,
    linear_scores,
    logistic_regression,
    low_shot_rows,
    standardise,
    top1,
)
from contramask.transfer.features import READOUTS, extract_features, labelled, unlabelled
from contramask.typed import STRICT, to_plain

log = logging.getLogger(__name__)

NonNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class ProbeConfig:
    """kNN as DINO measures it (2104.14294), linear on cached features, low-shot over several draws.

    Which k and temperature a kNN number was measured with is in the output's facts.
    """

    k: int = Field(default=20, ge=1)
    temperature: float = Field(default=0.07, gt=0)
    #: The linear probe's grid.
    weight_decays: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (1e-4, 1e-3, 1e-2)
    shots: int = Field(default=5, ge=1)  # images a class
    low_shot_splits: int = Field(default=3, ge=1)
    low_shot_weight_decay: float = Field(default=0.01, gt=0)
    anchor: bool = True  # measure the random-init encoder beside the trained one


def run_probe(
    bundle: EncoderBundle,
    store: Store,
    config: ProbeConfig,
    launch: LaunchConfig,
    tracker: Tracker,
) -> StageOutput:
    """Probe one encoder (and its random-init anchor) on the store's labels.

    Rows: knn_top1, linear_top1, low_shot_top1 in percent for each readout. Skipped without labels
    or without validation images.
    """
    reason = unlabelled(store)
    if reason:
        log.warning("the probe is skipped: %s", reason)
        return StageOutput.skipped("probe", reason)
    started = time.perf_counter()
    bundles = [bundle, random_init_bundle(bundle)] if config.anchor else [bundle]
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for one in bundles:
        method, features = one.manifest["method"], _features(one, store, launch)
        for readout in READOUTS:
            rows += _measure(one, features, store, readout, config)
        arrays[f"{method}/features"] = features["val"]["mean"].to(torch.float16).numpy()
        arrays[f"{method}/labels"] = labelled(store["val"]).labels
    for row in rows:
        if row["method"] == bundle.manifest["method"]:
            tracker.log({f"probe/{row['readout']}/{row['metric']}": row["value"]}, 0)
    facts = {
        "stage": "probe",
        "config": to_plain(config),
        "classes": store.manifest["classes"],
        "machine": machine_name(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    return StageOutput(pd.DataFrame(rows), arrays=arrays, facts=facts)


def _features(
    bundle: EncoderBundle, store: Store, launch: LaunchConfig
) -> dict[str, dict[str, Tensor]]:
    machine = pick_machine(launch)
    return {
        name: extract_features(bundle, labelled(store[name]), machine) for name in ("train", "val")
    }


def _measure(
    bundle: EncoderBundle,
    features: dict[str, dict[str, Tensor]],
    store: Store,
    readout: str,
    config: ProbeConfig,
) -> list[dict[str, Any]]:
    train, val = features["train"][readout], features["val"][readout]
    labels = torch.from_numpy(labelled(store["train"]).labels)
    truth = torch.from_numpy(labelled(store["val"]).labels)
    count, seed = store.num_classes, bundle.manifest["seed"]
    votes = knn_votes(train, labels, val, count, config.k, config.temperature)
    scores, decay = linear_scores(train, labels, val, count, config.weight_decays, seed)
    few = [
        _low_shot(train, labels, val, truth, count, config, seed + i)
        for i in range(config.low_shot_splits)
    ]
    found = [
        ("knn", "knn_top1", top1(votes, truth)),
        ("linear", "linear_top1", top1(scores, truth)),
        (f"{config.shots}-shot", "low_shot_top1", float(np.mean(few))),
    ]
    log.info(
        "%s, %s: kNN %.1f, linear %.1f (weight decay %g), %d-shot %.1f",
        *(bundle.manifest["method"], readout, found[0][2], found[1][2], decay),
        *(config.shots, found[2][2]),
    )
    return [result_row(bundle.manifest, "val", p, readout, m, v) for p, m, v in found]


def _low_shot(
    train: Tensor,
    labels: Tensor,
    val: Tensor,
    truth: Tensor,
    num_classes: int,
    config: ProbeConfig,
    seed: int,
) -> float:
    rows = low_shot_rows(labels, config.shots, seed)
    few, test = standardise(train[rows], val)
    weight, bias = logistic_regression(few, labels[rows], num_classes, config.low_shot_weight_decay)
    return top1(test @ weight.T + bias, truth)
