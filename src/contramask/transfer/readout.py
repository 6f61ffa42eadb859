"""Everything that is measured on one readout of a frozen encoder, from stored features."""

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.transfer.classifiers import Neighbours, linear_scores, nearest, top, top1
from contramask.transfer.low_shot import low_shot_splits, low_shot_top1, share, shots
from contramask.transfer.retrieval import retrieve
from contramask.transfer.spectrum import feature_std, rankme, uniformity
from contramask.typed import STRICT

Count = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class ReadoutConfig:
    """What is measured on features: nothing here reads an image."""

    #: The kNN that is quoted, as DINO measures it (2104.14294), and the others it is listed with.
    k: Count = 20
    other_k: tuple[Count, ...] = (10, 100, 200)
    temperature: float = Field(default=0.07, gt=0)
    #: The linear probe's grid.
    weight_decays: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (
        1e-5,
        1e-4,
        1e-3,
        1e-2,
    )
    shots: tuple[Count, ...] = (1, 2, 5)  # images a class
    label_shares: tuple[Share, ...] = (0.01, 0.1)  # of the images of each class
    low_shot_splits: int = Field(default=3, ge=1)
    low_shot_weight_decay: float = Field(default=0.01, gt=0)
    #: Where val images are looked up: among train images, or among the other val images.
    galleries: tuple[Literal["train", "val"], ...] = ("train", "val")


@plain_dataclass(frozen=True)
class Labelled:
    """Features (N, D) and classes (N,) of the train and the val images."""

    train: Tensor
    labels: Tensor
    val: Tensor
    truth: Tensor
    num_classes: int


@plain_dataclass
class Measured:
    """Numbers as (split, protocol, metric, value), and what the protocols chose by themselves."""

    numbers: list[tuple[str, str, str, float]] = field(default_factory=list)
    chosen: dict[str, float] = field(default_factory=dict)

    def add(self, protocol: str, metric: str, value: float, split: str = "val") -> None:
        """Note one number."""
        self.numbers.append((split, protocol, metric, value))

    def add_all(self, protocol: str, scores: Mapping[str, float]) -> None:
        """Note several numbers of one protocol."""
        for metric, value in scores.items():
            self.add(protocol, metric, value)

    def value(self, protocol: str, metric: str) -> float:
        """A number noted before."""
        return next(v for _, p, m, v in self.numbers if (p, m) == (protocol, metric))


def measure_readout(data: Labelled, config: ReadoutConfig, seed: int) -> Measured:
    """kNN, retrieval, linear and few-label classifiers, and the shape of the cloud of features."""
    measured = Measured()
    depth = max(config.k, *config.other_k, 1)
    if "train" in config.galleries:
        among = retrieve(data.train, data.labels, data.val, data.truth, keep=depth)
        measured.add_all("retrieval", among.scores)
        found = among.nearest
    else:
        found = nearest(data.train, data.val, depth)
    _knn(data, found, config, measured)
    if "val" in config.galleries and len(data.val) > 1:
        own = torch.arange(len(data.val))
        others = retrieve(data.val, data.truth, data.val, data.truth, own)
        measured.add_all("retrieval leave-one-out", others.scores)
    _linear(data, config, seed, measured)
    _low_shot(data, config, seed, measured)
    _spectrum(data.train, data.val, measured)
    return measured


def measure_unlabelled(train: Tensor, val: Tensor) -> Measured:
    """The shape of clouds of features (N, D), for which no label is needed."""
    measured = Measured()
    _spectrum(train, val, measured)
    return measured


def _spectrum(train: Tensor, val: Tensor, measured: Measured) -> None:
    measured.add("spectrum", "rankme", rankme(train), "train")
    measured.add("spectrum", "feature_std", feature_std(train), "train")
    if len(val) > 1:
        measured.add("spectrum", "uniformity", uniformity(val))


def _knn(data: Labelled, found: Neighbours, config: ReadoutConfig, measured: Measured) -> None:
    for k in dict.fromkeys([config.k, *config.other_k]):
        votes = found.votes(data.labels, data.num_classes, k, config.temperature)
        named = f"knn k={k}, T={config.temperature:g}"
        # The quoted one also under a name that does not change with the settings.
        for protocol in ["knn", named] if k == config.k else [named]:
            measured.add(protocol, "knn_top1", top1(votes, data.truth))
            if data.num_classes > 5:
                measured.add(protocol, "knn_top5", top(votes, data.truth, min(5, k)))


def _linear(data: Labelled, config: ReadoutConfig, seed: int, measured: Measured) -> None:
    scores, decay = linear_scores(
        data.train, data.labels, data.val, data.num_classes, config.weight_decays, seed
    )
    measured.chosen["linear_weight_decay"] = decay
    measured.add("linear", "linear_top1", top1(scores, data.truth))
    if data.num_classes > 5:
        measured.add("linear", "linear_top5", top(scores, data.truth, 5))


def _low_shot(data: Labelled, config: ReadoutConfig, seed: int, measured: Measured) -> None:
    draws = [(f"{count}-shot", shots(count)) for count in config.shots]
    draws += [(f"{100 * part:g}%", share(part)) for part in config.label_shares]
    for protocol, wanted in draws:
        splits = low_shot_splits(data.labels, wanted, config.low_shot_splits, seed)
        values = low_shot_top1(
            data.train, data.labels, data.val, data.truth, splits, config.low_shot_weight_decay
        )
        measured.add(protocol, "low_shot_top1", float(np.mean(values)))
        if len(values) > 1:
            measured.add(protocol, "low_shot_top1_sd", float(np.std(values, ddof=1)))
