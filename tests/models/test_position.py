"""The position task: values known in advance, and positions that are really withheld."""

import math

import pytest
import torch

from contramask.masking import random_mask
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.models.position import (
    PositionHead,
    forward_unplaced,
    position_cross_entropy,
    position_gauges,
    position_mse,
)

PLACES = 6  # of a grid of 2x3


@pytest.fixture
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    config = EncoderConfig(patch_size=4, embed_dim=24, depth=2, num_heads=2)
    return build_encoder(config, (8, 12), 3)


def test_a_fresh_head_knows_nothing() -> None:
    torch.manual_seed(0)
    logits = PositionHead(24, PLACES)(torch.randn(5, 4, 24))
    places = torch.randint(PLACES, (5, 4))
    assert logits.shape == (5, 4, PLACES)
    loss = position_cross_entropy(logits, places).detach()
    assert float(loss) == pytest.approx(math.log(PLACES))
    gauges = position_gauges(logits, places)
    assert float(gauges["position_accuracy"]) == pytest.approx(1 / PLACES)
    assert float(gauges["position_chance"]) == pytest.approx(1 / PLACES)


def test_a_fresh_head_can_learn() -> None:
    torch.manual_seed(0)
    head, tokens, places = PositionHead(24, PLACES), torch.randn(8, 2, 24), torch.arange(2)
    places = places.expand(8, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = position_cross_entropy(head(tokens), places)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3
    assert float(position_gauges(head(tokens), places)["position_accuracy"]) > 0.9


def test_nothing_non_linear_stands_in_the_head() -> None:
    torch.manual_seed(0)
    head = PositionHead(24, PLACES)
    torch.nn.init.normal_(head.get_parameter("1.weight"))
    one, two = torch.randn(2, 3, 24), torch.randn(2, 3, 24)
    torch.testing.assert_close(head((one + two) / 2), (head(one) + head(two)) / 2)


@pytest.mark.parametrize("count", [6, 64, 196])
def test_mse_of_the_constant_predictor(count: int) -> None:
    logits, places = torch.full((2, 3, count), 1 / count), torch.zeros(2, 3, dtype=torch.int64)
    expected = (1 / count) * (1 - 1 / count)
    assert float(position_mse(logits, places)) == pytest.approx(expected, rel=1e-5)


def test_mse_of_the_perfect_predictor_is_zero() -> None:
    places = torch.tensor([[0, 2, 5], [1, 3, 4]])
    assert float(position_mse(torch.eye(PLACES)[places], places)) == 0


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    right = -math.log(math.exp(2) / (math.exp(2) + 2))
    wrong = -math.log(1 / (math.e + 2))
    loss = position_cross_entropy(logits, torch.tensor([[0, 1]]))
    assert float(loss) == pytest.approx((right + wrong) / 2)
    gauges = position_gauges(logits, torch.tensor([[0, 1]]))
    assert float(gauges["position_accuracy"]) == 0.5


def test_with_all_positions_told_nothing_changes(encoder: VisionEncoder) -> None:
    images = torch.randn(3, 3, 8, 12)
    ids = random_mask(torch.rand(3, PLACES), 0.5).ids_keep
    told = torch.zeros(ids.shape, dtype=torch.bool)
    expected = encoder.forward_tokens(images, ids)
    torch.testing.assert_close(forward_unplaced(encoder, images, ids, told), expected)


def test_positions_withheld_are_not_read(encoder: VisionEncoder) -> None:
    images, ids = torch.randn(1, 3, 8, 12), torch.tensor([[4, 0, 3, 5]])
    unplaced = torch.tensor([[True, False, True, False]])  # the patches 4 and 3
    before = forward_unplaced(encoder, images, ids, unplaced)
    table = encoder.pos_embed.data  # (1, 1+L, D), class token first
    table[:, [1 + 4, 1 + 3]] = table[:, [1 + 3, 1 + 4]]
    assert torch.equal(forward_unplaced(encoder, images, ids, unplaced), before)
    table[:, [1 + 0, 1 + 5]] = table[:, [1 + 5, 1 + 0]]
    assert not torch.allclose(forward_unplaced(encoder, images, ids, unplaced), before, atol=1e-3)


def test_tokens_without_positions_are_a_set(encoder: VisionEncoder) -> None:
    images, ids = torch.randn(2, 3, 8, 12), torch.tensor([[4, 0, 3, 5]]).expand(2, -1)
    unplaced = torch.ones(2, 4, dtype=torch.bool)
    tokens = forward_unplaced(encoder, images, ids, unplaced)
    order = torch.tensor([2, 0, 3, 1])
    again = forward_unplaced(encoder, images, ids[:, order], unplaced)
    torch.testing.assert_close(again[:, 1:], tokens[:, 1:][:, order], atol=1e-5, rtol=1e-4)
