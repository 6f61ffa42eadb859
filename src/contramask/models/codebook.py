"""A codebook learnt by moving averages, in which codes nobody uses are soon given new work.

Vector quantisation as in VQ-VAE (van den Oord et al., 1711.00937, appendix A.1). Judging codes by
their moving average finds the dead ones too late: at 0.99 it takes some 350 steps, and by then a
handful of codes has taken over. Hence a counter of its own over a short window.
"""

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.draws import uniform
from contramask.losses import Gather, no_gather
from contramask.typed import STRICT

_RESTART_STREAM = 80  # of random numbers; the key is the number of steps
_HITS_PER_CODE = 20  # in a window, below which a rare code would look dead by chance
_LAPLACE = 1e-5
_CHUNK = 1 << 15  # vectors whose distances to all codes are in memory at once


@dataclass(frozen=True, config=STRICT)
class CodebookConfig:
    """How many codes, compared how, and when an unused one starts anew."""

    size: int | None = Field(default=None, ge=2)  # None: by the number of images, `codebook_size`
    dim: int = Field(default=64, ge=1)
    metric: Literal["euclidean", "cosine"] = "euclidean"  # cosine: unit length, as BEiT v2
    momentum: float = Field(default=0.99, ge=0, lt=1)
    restart_below: float = Field(default=0.03, ge=0, lt=1)  # share of the mean hits of a window
    windows: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (10, 100)  # steps
    switch_step: int = Field(default=1000, ge=0)  # from the first window's length to the second's
    restart_until: float = Field(default=0.8, ge=0, le=1)  # share of the training


def codebook_size(num_images: int) -> int:
    """How many codes so many training images can fill: 256, 512 or 1024."""
    if num_images >= 200_000:
        return 1024
    return 512 if num_images >= 20_000 else 256


@plain_dataclass(frozen=True)
class Quantised:
    """What a codebook makes of vectors (..., d).

    vectors (..., d): their codes, through which the gradient passes unchanged; ids (...) int64;
    commitment: mean squared distance to the codes, over vectors and dimensions, with gradient.
    """

    vectors: Tensor
    ids: Tensor
    commitment: Tensor


class Codebook(nn.Module):
    """K codes of d numbers. No gradient reaches them: `update` moves them after each step.

    `gather` is a hook for training in several processes, to collect the tensors of all; ours is one
    process and leaves it as it is.
    """

    codes: Tensor  # (K, d)
    counts: Tensor  # (K,) moving average of vectors a step
    sums: Tensor  # (K, d) moving average of their sums
    hits: Tensor  # (K,) vectors since the window began
    clock: Tensor  # (2,) int64: steps since the window began, and in all

    def __init__(self, size: int, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("codes", torch.zeros(size, config.dim))
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("sums", torch.zeros(size, config.dim))
        self.register_buffer("hits", torch.zeros(size))
        self.register_buffer("clock", torch.zeros(2, dtype=torch.int64))
        self.gather: Gather = no_gather

    @property
    def size(self) -> int:
        """K, the number of codes."""
        return len(self.codes)

    def project(self, vectors: Tensor) -> Tensor:
        """Vectors (..., d) where codes live: float32, of unit length for the cosine metric."""
        vectors = vectors.float()
        return F.normalize(vectors, dim=-1) if self.config.metric == "cosine" else vectors

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """The number of the code nearest to each projected vector (..., d): (...) int64."""
        with torch.autocast(vectors.device.type, enabled=False):
            offset = self.codes.square().sum(dim=1)
            # |z - c|^2 without |z|^2, which is the same for all codes.
            parts = [
                torch.addmm(offset, part, self.codes.T, alpha=-2).argmin(dim=1)
                for part in torch.split(vectors.flatten(0, -2), _CHUNK)
            ]
        return torch.cat(parts).reshape(vectors.shape[:-1])

    def forward(self, vectors: Tensor) -> Quantised:
        """Replace projected vectors (..., d) by their codes, with a straight-through gradient."""
        ids = self.nearest(vectors)
        codes = self.codes[ids]
        return Quantised(vectors + (codes - vectors).detach(), ids, F.mse_loss(vectors, codes))

    @torch.no_grad()
    def start(self, vectors: Tensor, seed: int, rounds: int = 10) -> None:
        """Place the codes by k-means on projected vectors (N, d): random codes would collapse.

        Raises `ValueError` with fewer vectors than codes.
        """
        if len(vectors) < self.size:
            raise ValueError(
                f"{self.size} codes cannot be placed on {len(vectors)} image tokens; lower "
                "tokenizer.codebook.size, or give more images"
            )
        order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(seed))
        self.codes.copy_(vectors[order[: self.size].to(vectors.device)])
        for _ in range(rounds):
            counted, summed = self._tally(vectors, self.nearest(vectors))
            means = self.project(summed / counted.clamp_min(1)[:, None])
            self.codes.copy_(torch.where(counted[:, None] > 0, means, self.codes))
        counted, _ = self._tally(vectors, self.nearest(vectors))
        # At least 1, and sums that agree with the codes: otherwise the first updates pull codes
        # towards the origin.
        self.counts.copy_(counted.clamp_min(1))
        self.sums.copy_(self.codes * self.counts[:, None])

    @torch.no_grad()
    def update(self, vectors: Tensor, ids: Tensor, progress: float) -> None:
        """Move the codes towards one step's projected vectors (N, d), whose codes are ids (N,).

        progress, 0 to 1 over the whole training, ends the restarts: the last codes must settle.
        """
        vectors, ids = self.gather(vectors), self.gather(ids)
        counted, summed = self._tally(vectors, ids)
        self.counts.lerp_(counted, 1 - self.config.momentum)
        self.sums.lerp_(summed, 1 - self.config.momentum)
        total = self.counts.sum()
        smooth = (self.counts + _LAPLACE) / (total + self.size * _LAPLACE) * total
        self.codes.copy_(self.project(self.sums / smooth[:, None]))
        self.hits += counted
        self.clock += 1
        if progress <= self.config.restart_until:
            self._restart(vectors)

    def _tally(self, vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """How many vectors each code has (K,), and their sum (K, d)."""
        ones = torch.ones(len(ids), device=ids.device)
        counted = torch.zeros_like(self.counts).index_add_(0, ids, ones)
        return counted, torch.zeros_like(self.sums).index_add_(0, ids, vectors)

    def _restart(self, vectors: Tensor) -> None:
        """At a window's end, put codes that had next to no hits where some of `vectors` are.

        Nothing here waits for the device, and equal inputs give equal picks on every rank.
        """
        config, steps = self.config, self.clock[1]
        length = torch.where(steps <= config.switch_step, *config.windows)
        due = (self.clock[0] >= length) & (self.hits.sum() >= _HITS_PER_CODE * self.size)
        dead = due & (self.hits < config.restart_below * self.hits.mean())
        # One random vector out of each K-th of the batch: no two codes get the same one.
        place = torch.arange(self.size, device=vectors.device)
        offset = uniform(steps[None], _RESTART_STREAM, self.size)[0]
        pick = ((place + offset) * (len(vectors) / self.size)).long().clamp_max(len(vectors) - 1)
        fresh, mean = vectors[pick], self.counts.mean()
        self.codes.copy_(torch.where(dead[:, None], fresh, self.codes))
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.sums.copy_(torch.where(dead[:, None], mean * fresh, self.sums))
        self.hits.mul_(~due)
        self.clock[0] *= ~due
