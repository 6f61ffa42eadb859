"""The shape of a cloud of features: known values, and what collapse looks like."""

import math

import pytest
import torch

from contramask.transfer.spectrum import alignment, feature_std, rankme, uniformity


def test_rankme_equals_its_definition() -> None:
    features = torch.randn(70, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 13)
    for matrix in (features, features.T):
        singular = torch.linalg.svdvals(matrix.double())
        share = singular / singular.sum() + 1e-7
        expected = float((-(share * share.log()).sum()).exp())
        assert rankme(matrix) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rankme_counts_equally_strong_directions(rank: int) -> None:
    features = torch.zeros(64, 8)
    features[:, :rank] = torch.linalg.qr(torch.randn(64, rank)).Q
    assert rankme(features) == pytest.approx(rank, rel=1e-3)


def test_collapsed_features_are_told_from_spread_ones() -> None:
    constant = torch.full((100, 16), 0.3)
    assert rankme(constant) == pytest.approx(1, abs=1e-3)
    assert feature_std(constant) == pytest.approx(0, abs=1e-6)
    assert uniformity(constant) == pytest.approx(0, abs=1e-5)
    assert alignment(constant, constant) == 0
    nothing = torch.zeros(100, 16)
    assert math.isfinite(rankme(nothing))
    assert feature_std(nothing) == 0
    spread = torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))
    assert rankme(spread) > 15.5
    assert feature_std(spread) == pytest.approx(1, abs=0.05)


def test_uniformity_equals_a_count_of_all_pairs() -> None:
    features = torch.randn(1500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = features / features.norm(dim=1, keepdim=True)
    squared = torch.pdist(unit).square()
    expected = math.log(float((-2 * squared).exp().mean()))
    assert uniformity(features.float()) == pytest.approx(expected, abs=1e-5)


def test_alignment_is_a_mean_of_squared_distances_of_directions() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    other = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
    assert alignment(first, other) == pytest.approx((2 + 0) / 2)
    assert alignment(first, 5 * first) == pytest.approx(0)
