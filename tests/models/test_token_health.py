"""The judgement of tokens: what is counted, what is refused, what is forgiven."""

import numpy as np
import pytest
import torch
from torch import Tensor

from contramask.models.codebook import CodebookConfig
from contramask.models.token_health import (
    TokenGates,
    TokenHealth,
    entropy,
    measure_health,
    perplexity,
    refusals,
    warnings,
)
from contramask.models.tokenizer import TokenizerNetConfig, VQTokenizer


def health(shares: list[float], flat: tuple[int, ...] = (), **settings: float) -> TokenHealth:
    values = np.array(shares) / sum(shares)
    plain = np.isin(np.arange(len(shares)), flat)
    return TokenHealth(1000, values, plain, **{"stability": 0.9, "error": 0.05, **settings})


@pytest.mark.parametrize("size", [2, 7, 512])
def test_perplexity_counts_equally_frequent_codes(size: int) -> None:
    assert perplexity(torch.full((size,), 9)) == pytest.approx(size, rel=1e-5)
    constant = torch.zeros(size, dtype=torch.int64)
    constant[1] = 1000
    assert perplexity(constant) == 1
    half = torch.zeros(8)
    half[:4] = 0.25
    assert perplexity(half) == pytest.approx(4)


def test_nothing_counted_is_no_entropy() -> None:
    assert float(entropy(torch.zeros(5, dtype=torch.int64))) == 0


def test_even_codes_are_accepted() -> None:
    found = health([1.0] * 64)
    assert refusals(found, TokenGates()) == []
    assert warnings(found, TokenGates()) == []
    assert found.facts()["perplexity_share"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        ([100.0] * 20 + [1e-3] * 44, "as varied as 20 equally frequent codes of 64"),
        ([1.0] * 58 + [0.0] * 6, "91% of 64 codes occur, less than 95%"),
        ([5.0] + [1.0] * 63, "one code that is no plain colour stands for 7%"),
    ],
)
def test_poor_tokens_are_refused_with_a_sentence(shares: list[float], text: str) -> None:
    (reason,) = refusals(health(shares), TokenGates())
    assert text in reason
    assert "tokenizer.codebook.size" in reason


def test_a_frequent_plain_colour_is_forgiven() -> None:
    shares = [5.0] + [1.0] * 63
    assert refusals(health(shares, flat=(0,)), TokenGates()) == []


def test_unstable_and_blurred_tokens_are_worth_a_warning() -> None:
    found = warnings(health([1.0] * 4, stability=0.5, error=0.1), TokenGates())
    assert len(found) == 2
    assert "50% of the tokens survive" in found[0]
    assert "off by 0.100" in found[1]


class Brightness(VQTokenizer):
    """Names a patch by its mean brightness, in fifths."""

    def __init__(self) -> None:
        super().__init__(4, 3, 5, TokenizerNetConfig(widths=(4,)), CodebookConfig(dim=2))

    def encode(self, images: Tensor) -> Tensor:
        means = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4)
        return (means * 5).long().clamp_max(4).flatten(1)

    def decode(self, ids: Tensor, grid: tuple[int, int]) -> Tensor:
        maps = ((ids + 0.5) / 5).reshape(-1, 1, *grid)
        return maps.repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)


def test_counting_over_batches() -> None:
    """Plain patches of brightness 0.1 and 0.5, and striped ones of mean 0.9."""
    dark, mid = torch.full((2, 3, 8, 8), 0.1), torch.full((1, 3, 8, 8), 0.5)
    stripes = torch.full((1, 3, 8, 8), 0.85)
    stripes[..., ::2] = 0.95
    found = measure_health(Brightness(), iter([dark, torch.cat([mid, stripes])]))
    assert found.tokens == 16
    assert found.shares.tolist() == [0.5, 0, 0.25, 0, 0.25]
    assert found.flat[[0, 2, 4]].tolist() == [True, True, False]
    assert found.used == pytest.approx(0.6)
    assert found.top_share == 0.25
    assert found.stability == 1
    assert found.error == pytest.approx(0.05 / 4)
    assert found.facts()["flat_codes"] == 2
    assert found.facts()["top_codes"][0] == [0, 0.5]


def test_no_images_no_health() -> None:
    with pytest.raises(ValueError, match="without images"):
        measure_health(Brightness(), iter([]))
