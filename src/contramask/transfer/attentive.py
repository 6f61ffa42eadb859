"""Attentive probes: which patches of a frozen encoder to look at is learnt with the classifier.

Features of masked image modelling lie in the patches; their mean or a class token that no loss
touched says little about them. Trained on stored patch tokens, without augmentation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass as plain_dataclass
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.data.loader import Batch, epoch_order
from contramask.data.prefetch import sent, staged
from contramask.failures import within_memory
from contramask.methods.base import StepOutput
from contramask.models.family import Encoder
from contramask.train.device import Machine
from contramask.train.loop import TrainPlan, fit
from contramask.train.optim import adamw
from contramask.train.parts import largest_step
from contramask.train.schedule import warmup_cosine
from contramask.transfer.classifiers import top1
from contramask.transfer.dense import spread
from contramask.transfer.feature_cache import Features
from contramask.transfer.pictured import one_of_each
from contramask.transfer.running import Named
from contramask.typed import STRICT

Pooling = Literal["ep", "cross"]
Rate = Annotated[float, Field(gt=0)]
_HEAD_WIDTH = 64  # of `cross`, as CAPI sets it


@dataclass(frozen=True, config=STRICT)
class AttentiveConfig:
    """How attentive probes are trained: AdamW, a tenth of the steps warm-up, half a cosine.

    `ep` is efficient probing (2506.10178): queries meet the tokens themselves. `cross` is plain
    cross-attention with one query and key and value projections, as CAPI (2502.08769) uses it. All
    learning rates are trained side by side and one is chosen on a tenth of the train images, as in
    CAPI. Probes are comparable at an equal, sufficient number of epochs only.
    """

    poolings: Annotated[tuple[Pooling, ...], Field(min_length=1)] = ("ep",)
    queries: int = Field(default=32, ge=1)  # of `ep`; fewer where they do not divide the width
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=2)
    learning_rates: Annotated[tuple[Rate, ...], Field(min_length=1)] = (5e-3, 4e-2)
    weight_decay: float = Field(default=1e-3, ge=0)
    train_limit: int | None = Field(default=None, ge=20)  # train images used; None: all
    #: Space for the patch tokens of a split; of images for which there is none, some are drawn.
    token_megabytes: int = Field(default=1000, ge=1)
    pictures: int = Field(default=6, ge=0)  # val images whose attention is kept for the report


def token_rows(config: AttentiveConfig, split: str, count: int, encoder: Encoder) -> np.ndarray:
    """Row numbers, rising, of those of a split's `count` images whose tokens are kept."""
    megabytes = encoder.num_patches * encoder.embed_dim * np.float16().itemsize / 1e6
    limit = max(int(config.token_megabytes / megabytes), 1)
    if split == "train" and config.train_limit is not None:
        limit = min(limit, config.train_limit)
    return spread(count, limit)


class AttentivePool(nn.Module):
    """Patch tokens (B, L, D) to one feature (B, D): Q queries attend, each fills a share of it.

    Query q looks at token x by softmax(q . x), and a linear map of what it sees gives D / Q
    dimensions. Values are projected after pooling: the same, at a fraction of the cost. Biases are
    left out, because the batch norm that follows would take them away.
    """

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        self.queries = queries
        self.value = nn.Linear(width, width, bias=False)
        nn.init.trunc_normal_(self.value.weight, std=0.02)

    def query_vectors(self) -> Tensor:
        """The queries (Q, D) as they meet the tokens, scaled."""
        raise NotImplementedError

    def attention(self, tokens: Tensor) -> Tensor:
        """Where each query looks, (B, Q, L), summing to 1 over the patches."""
        return (self.query_vectors() @ tokens.transpose(1, 2)).softmax(dim=2)

    def forward(self, tokens: Tensor) -> Tensor:
        """The pooled feature (B, D)."""
        seen = self.attention(tokens) @ tokens  # (B, Q, D)
        width = tokens.shape[2]
        share = self.value.weight.reshape(self.queries, -1, width)  # (Q, D/Q, D)
        return torch.einsum("bqd,qed->bqe", seen, share).flatten(1)


class EfficientPool(AttentivePool):
    """Efficient probing: many queries, no key projection; logits are scaled by 1/sqrt(D)."""

    def __init__(self, width: int, queries: int) -> None:
        super().__init__(width, divisor(width, queries))
        self.query = nn.Parameter(torch.randn(self.queries, width) * 0.02)

    def query_vectors(self) -> Tensor:
        """The queries themselves."""
        return self.query / math.sqrt(self.query.shape[1])


class CrossPool(AttentivePool):
    """Multi-head cross-attention of one learnt query; a head's query meets tokens as key^T q."""

    def __init__(self, width: int) -> None:
        super().__init__(width, divisor(width, max(width // _HEAD_WIDTH, 1)))
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.key = nn.Linear(width, width, bias=False)
        nn.init.trunc_normal_(self.key.weight, std=0.02)

    def query_vectors(self) -> Tensor:
        """One query a head, its key projection already applied."""
        heads = self.query.reshape(self.queries, -1)  # (Q, D/Q)
        key = self.key.weight.reshape(self.queries, -1, len(self.query))  # (Q, D/Q, D)
        return torch.einsum("qe,qed->qd", heads, key) / math.sqrt(heads.shape[1])


def divisor(width: int, at_most: int) -> int:
    """The largest divisor of `width` that is no larger than `at_most`."""
    return max(d for d in range(1, min(at_most, width) + 1) if width % d == 0)


class AttentiveHead(nn.Module):
    """Pooling, batch norm without gain and bias, linear: tokens (B, L, D) to scores (B, K)."""

    def __init__(self, pool: AttentivePool, width: int, num_classes: int) -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        self.linear = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Class scores."""
        pooled = self.pool(tokens).float()
        with torch.autocast(pooled.device.type, enabled=False):
            return self.linear(self.norm(pooled))  # type: ignore[no-any-return]


class _Training(nn.Module):
    """Heads that learn from the same batches, each at its own rate."""

    def __init__(self, heads: list[AttentiveHead]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, batch: Batch) -> StepOutput:
        """The mean of all cross-entropies, to whose scale AdamW is blind."""
        losses = [F.cross_entropy(head(batch["tokens"]), batch["label"]) for head in self.heads]
        return StepOutput(torch.stack(losses).mean())


class TokenLoader:
    """Shuffled batches of stored patch tokens; the last, incomplete one of an epoch is dropped."""

    tolerated_wait = 0.5  # learning from a batch costs hardly more than fetching it
    advice = (
        "stored patch tokens are read between two steps; keep fewer of them"
        " (probe.attentive.token_megabytes or train_limit), or put the work folder on a faster disk"
    )

    def __init__(
        self, features: Features, places: np.ndarray, batch_size: int, seed: int, machine: Machine
    ) -> None:
        self.features, self.places, self.seed, self.machine = features, places, seed, machine
        self.batch_size = min(batch_size, len(places))
        self.steps_per_epoch = len(places) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on: tokens (B, L, D) and label (B,)."""
        order = self.places[epoch_order(len(self.places), self.seed, epoch)]
        for step in range(start, self.steps_per_epoch):
            yield self.batch(order[step * self.batch_size : (step + 1) * self.batch_size])

    def batch(self, places: np.ndarray) -> Batch:
        """The images at these places among those whose tokens are kept."""
        device, labels = self.machine.device, self.features.labels.numpy()
        tokens = sent(staged(self.features.tokens[places], device), device).float()
        label = staged(labels[self.features.token_rows[places]], device)
        return {"tokens": tokens, "label": sent(label, device)}


@plain_dataclass(frozen=True)
class AttentiveResult:
    """What one pooling reached: top-1 on val in percent, the rate it took, where it looks."""

    top1: float
    learning_rate: float
    attention: np.ndarray  # (pictures, Q, L) float16
    places: np.ndarray  # (pictures,) of which val images, among those whose tokens are kept


def attentive_probe(
    train: Features,
    val: Features,
    pooling: Pooling,
    config: AttentiveConfig,
    machine: Machine,
    named: Named,
) -> AttentiveResult:
    """Train probes on the stored tokens and measure the one that a tenth of `train` prefers."""
    width, num_classes, seed = train.tokens.shape[2], int(train.labels.max()) + 1, named.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pools = [_pool(pooling, width, config) for _ in config.learning_rates]
        heads = [AttentiveHead(pool, width, num_classes) for pool in pools]
    order = np.random.default_rng(seed).permutation(len(train.token_rows))
    held, rest = np.split(order, [max(len(order) // 10, 1)])
    model = _Training(heads).to(machine.device)
    loader = TokenLoader(train, rest, config.batch_size, seed, machine)
    _fit(model, loader, config, machine, named)
    chosen = 0
    if len(heads) > 1:
        found = [_measure(head, train, held, machine) for head in heads]
        chosen = max(range(len(found)), key=found.__getitem__)
    best = heads[chosen]
    value = _measure(best, val, np.arange(len(val.token_rows)), machine)
    places = one_of_each(val.labels.numpy()[val.token_rows], config.pictures)
    attention = _attention(best, val, places, machine)
    return AttentiveResult(value, config.learning_rates[chosen], attention, places)


def _pool(pooling: Pooling, width: int, config: AttentiveConfig) -> AttentivePool:
    return EfficientPool(width, config.queries) if pooling == "ep" else CrossPool(width)


def _fit(
    model: _Training,
    loader: TokenLoader,
    config: AttentiveConfig,
    machine: Machine,
    named: Named,
) -> None:
    total = config.epochs * loader.steps_per_epoch
    warmup = max(total // 10, 1)
    groups = [
        {"params": list(head.parameters()), "weight_decay": config.weight_decay, "lr_scale": rate}
        for head, rate in zip(model.heads, config.learning_rates, strict=True)
    ]
    plan = TrainPlan(
        name=named.name,
        epochs=config.epochs,
        optimizer=adamw(groups, 1.0, betas=(0.9, 0.999)),
        factor_at=lambda step: warmup_cosine(step + 1, total, warmup),
        machine=machine,
        seed=named.seed,
        log_every=max(loader.steps_per_epoch, 1),
    )
    advice = partial(largest_step, model, loader, machine, "probe.attentive.batch_size")
    within_memory(lambda: fit(model, loader, plan, named.tracker, named.keeper), advice)


@torch.no_grad()
def _attention(
    head: AttentiveHead, features: Features, places: np.ndarray, machine: Machine
) -> np.ndarray:
    """Where the queries look in the images at `places` (n,), (n, Q, L) float16."""
    tokens = TokenLoader(features, np.arange(1), 1, 0, machine).batch(places)["tokens"]
    looks: np.ndarray = head.pool.attention(tokens).float().cpu().to(torch.float16).numpy()
    return looks


@torch.no_grad()
def _measure(head: nn.Module, features: Features, places: np.ndarray, machine: Machine) -> float:
    """Top-1 in percent on the images at `places`."""
    head.eval()
    loader = TokenLoader(features, places, 256, 0, machine)
    scores, labels = [], []
    for start in range(0, len(places), 256):
        batch = loader.batch(places[start : start + 256])
        with machine.autocast():
            scores.append(head(batch["tokens"]).cpu())
        labels.append(batch["label"].cpu())
    return top1(torch.cat(scores), torch.cat(labels))
