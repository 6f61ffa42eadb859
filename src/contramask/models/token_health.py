"""Whether a tokenizer's codes are worth predicting: how many are in use, how evenly, how stably.

A codebook that fell back on a handful of codes trains without complaint, and a method that predicts
its tokens learns next to nothing; so a tokenizer is judged before anything trains with it.
"""

from collections.abc import Iterable
from dataclasses import dataclass as plain_dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.models.encoder import patchify
from contramask.models.tokenizer import VQTokenizer
from contramask.typed import STRICT

_BRIGHTNESS = (0.98, 1.02)  # changes that should change no token
_FLAT = 0.02  # mean deviation inside a patch, of [0, 1] pixels, below which it is one plain colour


@dataclass(frozen=True, config=STRICT)
class TokenGates:
    """Beyond which values a tokenizer is refused, and beyond which it gets a warning; 0 to 1."""

    min_perplexity: float = Field(default=0.5, ge=0, le=1)  # share of the codebook; refused
    min_used: float = Field(default=0.95, ge=0, le=1)  # share of the codes; refused
    max_share: float = Field(default=0.05, gt=0, le=1)  # one code's, plain colours apart; refused
    warn_stability: float = Field(default=0.7, ge=0, le=1)
    warn_error: float = Field(default=0.07, ge=0, le=1)


@plain_dataclass(frozen=True)
class TokenHealth:
    """What was measured on images in [0, 1]; `tokens` counts them.

    shares (K,) of the codes; flat (K,) bool: codes that stand for one plain colour; stability:
    tokens unchanged when brightness changes by 2 percent; error: mean absolute pixel error.
    """

    tokens: int
    shares: np.ndarray
    flat: np.ndarray
    stability: float
    error: float

    @property
    def vocab_size(self) -> int:
        """K, the number of codes."""
        return len(self.shares)

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the codes: how many equally frequent codes would say as much."""
        return perplexity(torch.from_numpy(self.shares))

    @property
    def used(self) -> float:
        """Share of the codes that occurred at all."""
        return float((self.shares > 0).mean())

    @property
    def top_share(self) -> float:
        """Share of the most frequent code that is no plain colour."""
        return float(np.where(self.flat, 0, self.shares).max())

    def facts(self) -> dict[str, Any]:
        """Plain values, rounded to what does not depend on the machine."""
        top = np.argsort(-self.shares, kind="stable")[:10]
        values = {
            "perplexity": self.perplexity,
            "perplexity_share": self.perplexity / self.vocab_size,
            "used": self.used,
            "top_share": self.top_share,
            "stability": self.stability,
            "error": self.error,
        }
        return {
            **{name: round(value, 6) for name, value in values.items()},
            "tokens": self.tokens,
            "vocab_size": self.vocab_size,
            "top_codes": [[int(code), round(float(self.shares[code]), 6)] for code in top],
            "flat_codes": int((self.flat & (self.shares > 0)).sum()),
        }


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of codes counted (K,): K when all are alike, 1 when there is only one."""
    return float(entropy(counts).exp())


def entropy(counts: Tensor) -> Tensor:
    """Entropy in nats of codes counted (K,), a scalar; 0 when nothing was counted."""
    shares = counts / counts.sum().clamp_min(1)
    return -torch.xlogy(shares, shares).sum()


@torch.no_grad()
def measure_health(tokenizer: VQTokenizer, batches: Iterable[Tensor]) -> TokenHealth:
    """Run the tokenizer over batches of images (B, C, H, W) in [0, 1] and count."""
    counts, spread, stable, error, images_seen = None, None, 0.0, 0.0, 0
    for images in batches:
        ids = tokenizer.encode(images)
        flat_ids = ids.flatten()
        if counts is None or spread is None:
            counts = torch.zeros(tokenizer.vocab_size, device=images.device)
            spread = torch.zeros_like(counts)
        counts.index_add_(0, flat_ids, torch.ones_like(flat_ids, dtype=torch.float32))
        spread.index_add_(0, flat_ids, _spread(images, tokenizer.patch_size))
        changed = [tokenizer.encode((images * factor).clamp(0, 1)) for factor in _BRIGHTNESS]
        stable += sum(float((other == ids).float().mean()) for other in changed) / 2 * len(images)
        seen = tokenizer.decode(ids, tokenizer.grid_of(images))
        error += float((seen - images).abs().mean()) * len(images)
        images_seen += len(images)
    if counts is None or spread is None:
        raise ValueError("a tokenizer's health cannot be measured without images")
    return TokenHealth(
        tokens=int(counts.sum()),
        shares=(counts / counts.sum()).cpu().numpy(),
        flat=(spread / counts.clamp_min(1) < _FLAT).cpu().numpy(),
        stability=stable / images_seen,
        error=error / images_seen,
    )


def refusals(health: TokenHealth, gates: TokenGates) -> list[str]:
    """Why tokens of this health must not be trained on; empty when they may."""
    size, found = health.vocab_size, []
    advice = (
        "train the tokenizer longer (tokenizer.epochs), lower tokenizer.codebook.size, or look at "
        "the images: large plain areas all get the same few codes"
    )
    if health.perplexity < gates.min_perplexity * size:
        found.append(
            f"the tokens are as varied as {health.perplexity:.0f} equally frequent codes of {size},"
            f" fewer than {gates.min_perplexity:.0%}: predicting them teaches little; {advice}"
        )
    if health.used < gates.min_used:
        found.append(
            f"{health.used:.0%} of {size} codes occur, less than {gates.min_used:.0%}; {advice}"
        )
    # In a small codebook even evenly used codes are frequent: four even shares always pass.
    max_share = max(gates.max_share, 4 / size)
    if health.top_share > max_share:
        found.append(
            f"one code that is no plain colour stands for {health.top_share:.0%} of all patches, "
            f"more than {max_share:.0%}; {advice}"
        )
    return found


def warnings(health: TokenHealth, gates: TokenGates) -> list[str]:
    """What is worth knowing before training on these tokens."""
    found = []
    if health.stability < gates.warn_stability:
        found.append(
            f"{health.stability:.0%} of the tokens survive a change of brightness by 2%, less than "
            f"{gates.warn_stability:.0%}"
        )
    if health.error > gates.warn_error:
        found.append(
            f"pictures drawn from tokens are off by {health.error:.3f} of the pixel range on "
            f"average, more than {gates.warn_error:.3f}"
        )
    return found


def _spread(images: Tensor, patch_size: int) -> Tensor:
    """Mean deviation of the pixels inside each patch, over channels, (B * L,)."""
    patches = patchify(images, patch_size)  # (B, L, p*p*C)
    patches = patches.reshape(*patches.shape[:2], patch_size**2, -1)
    return patches.std(dim=2, correction=0).mean(dim=2).flatten()
