"""The projector and predictor: their layers, sizes and precision."""

import pytest
import torch
from torch import nn

from contramask.models.heads import MLPHead


def test_layers_are_those_of_the_released_code() -> None:
    head = MLPHead(768, 1536, 256)
    kinds = [type(layer) for layer in head]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert head.fc0.bias is not None
    assert head.fc1.bias is None
    assert head.bn0.eps == 1e-6
    assert head.bn0.affine
    assert set(dict(head.named_parameters())) == {
        *("fc0.weight", "fc0.bias", "bn0.weight", "bn0.bias", "fc1.weight"),
    }


def test_projector_and_predictor_of_vit_b_have_the_published_size() -> None:
    def count(in_dim: int) -> int:
        return sum(p.numel() for p in MLPHead(in_dim, 1536, 256).parameters())

    # weights and bias of the first layer, gains and biases of the norm, weights of the second
    assert count(768) == 768 * 1536 + 1536 + 2 * 1536 + 1536 * 256
    assert count(256) == 256 * 1536 + 1536 + 2 * 1536 + 1536 * 256


def test_the_norms_epsilon_can_be_set() -> None:
    assert MLPHead(4, 8, 2, norm_eps=1e-5).bn0.eps == 1e-5


def test_output_is_the_formula() -> None:
    torch.manual_seed(0)
    head, features = MLPHead(4, 8, 2), torch.randn(6, 4)
    inner = head.fc0(features)
    normed = (inner - inner.mean(0)) / (inner.var(0, unbiased=False) + 1e-6).sqrt()
    expected = normed.relu() @ head.fc1.weight.T
    torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_reach_the_head(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head, features = MLPHead(4, 8, 2), torch.randn(6, 4).to(dtype)
    expected = head(features.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(features), expected)
    assert expected.dtype == torch.float32
