"""MoCo-v3's heads: layers as released, and float32 inside."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from contramask.models.moco_heads import MoCoHead


@pytest.mark.parametrize(("depth", "layers"), [(1, 2), (2, 5), (3, 8)])
def test_every_linear_layer_has_its_batch_norm(depth: int, layers: int) -> None:
    head = MoCoHead(6, 10, 4, depth)
    assert len(head) == layers
    linear = [part for part in head if isinstance(part, nn.Linear)]
    norms = [part for part in head if isinstance(part, nn.BatchNorm1d)]
    assert [part.bias for part in linear] == [None] * depth
    assert [part.affine for part in norms] == [True] * (depth - 1) + [False]
    assert linear[0].in_features == 6
    assert linear[-1].out_features == 4


def test_two_layers_by_hand() -> None:
    torch.manual_seed(0)
    head, features = MoCoHead(3, 5, 2, depth=2), torch.randn(7, 3)
    hidden = features @ head.get_parameter("fc0.weight").T
    hidden = F.relu((hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt())
    out = hidden @ head.get_parameter("fc1.weight").T
    out = (out - out.mean(0)) / (out.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(features), out)


def test_outputs_are_spread_over_the_batch() -> None:
    torch.manual_seed(0)
    out = MoCoHead(8, 16, 4, depth=3)(torch.randn(64, 8) + 5)
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.std(0, unbiased=False), torch.ones(4), atol=1e-3, rtol=0)


def test_stays_in_float32_under_autocast() -> None:
    head, features = MoCoHead(8, 16, 4, depth=3), torch.randn(16, 8)
    expected = head(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = head(features)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected)


def test_a_head_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one layer, not 0"):
        MoCoHead(8, 16, 4, depth=0)
