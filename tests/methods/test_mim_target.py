"""Targets of masked prediction: how tokens and pixels are scored, counted and drawn."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from contramask.losses import normalise_patches
from contramask.methods.mim_target import PixelTarget, PixelTargetConfig, TokenTarget
from contramask.models.codebook import CodebookConfig
from contramask.models.encoder import patchify
from contramask.models.tokenizer import TokenizerNetConfig, VQTokenizer

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def tokenizer(codes: int = 8) -> VQTokenizer:
    torch.manual_seed(0)
    made = VQTokenizer(4, 3, codes, TokenizerNetConfig(widths=(6,)), CodebookConfig(dim=4))
    with torch.no_grad():
        made.codebook.start(made.features(made.scaled(images())).flatten(0, 1), seed=0)
    return made


def images() -> Tensor:
    return torch.rand(6, 3, 8, 12, generator=torch.Generator().manual_seed(2))


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


def target(smoothing: float = 0.1) -> TokenTarget:
    return TokenTarget(tokenizer(), MEAN, STD, smoothing)


def test_tokens_are_those_of_the_image_before_normalisation() -> None:
    assert torch.equal(target().of(normalised(images())), tokenizer().encode(images()))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_smoothed_cross_entropy(smoothing: float) -> None:
    logits, ids = torch.randn(20, 8), torch.arange(20) % 8
    loss, terms = target(smoothing).score(logits, ids)
    torch.testing.assert_close(loss, F.cross_entropy(logits, ids, label_smoothing=smoothing))
    torch.testing.assert_close(terms["token_nll"], F.cross_entropy(logits, ids))
    assert float(terms["token_top1"]) == float((logits.argmax(dim=1) == ids).float().mean())


def test_what_has_no_weight_does_not_count() -> None:
    logits, ids = torch.randn(20, 8), torch.arange(20) % 8
    weight = torch.arange(20) % 3 > 0
    tokens, pixels = target(), PixelTarget(4, 3, PixelTargetConfig())
    for made, goal in ((tokens, ids), (pixels, torch.randn(20, 8))):
        expected, terms = made.score(logits[weight], goal[weight])
        found, same = made.score(logits, goal, weight)
        torch.testing.assert_close(found, expected)
        assert terms.keys() == same.keys()
        assert all(torch.allclose(terms[name], same[name]) for name in terms)
        none, _ = made.score(logits, goal, torch.zeros(20, dtype=torch.bool))
        assert float(none) == 0
    tokens.record(ids, weight)
    assert torch.equal(tokens.counts, torch.bincount(ids[weight], minlength=8))


def test_nothing_hidden_costs_nothing() -> None:
    logits = torch.randn(0, 8, requires_grad=True)
    loss, _ = target().score(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0


def test_gain_is_what_is_known_beyond_frequencies() -> None:
    """Half of the tokens are 0, half 1: ln 2 of entropy; sure, right answers gain all of it."""
    made = target()
    ids = torch.arange(100) % 2
    made.record(ids)
    sure = 40.0 * F.one_hot(ids, 8)
    made.score(sure, ids)
    gauges = made.gauges()
    assert float(gauges["token_entropy"]) == pytest.approx(math.log(2), rel=1e-5)
    assert float(gauges["token_gain"]) == pytest.approx(math.log(2), rel=1e-4)
    by_frequency = torch.tensor([0.5, 0.5, *[1e-9] * 6]).log().expand(100, 8)
    made.score(by_frequency, ids)
    assert float(made.gauges()["token_gain"]) == pytest.approx(0, abs=1e-4)


def test_drift_is_seen_when_tokens_change() -> None:
    made = target()
    made.score(torch.zeros(1, 8), torch.zeros(1, dtype=torch.int64))
    made.record(torch.arange(80) % 8)
    assert float(made.gauges()["token_drift"]) == pytest.approx(0, abs=1e-6)
    made.record(torch.arange(80) % 8)
    assert float(made.gauges()["token_drift"]) == pytest.approx(0, abs=1e-6)
    made.record(torch.zeros(160, dtype=torch.int64))
    # Recent: all token 0; of all 320 tokens, 180 are token 0.
    assert float(made.gauges()["token_drift"]) == pytest.approx(math.log(320 / 180), rel=1e-5)


def test_the_tokenizer_stays_frozen_and_in_evaluation() -> None:
    made = target().train()
    assert not made.tokenizer.training
    assert not any(p.requires_grad for p in made.parameters())


def drawn(made: TokenTarget | PixelTarget, pred: Tensor, hidden: Tensor) -> Tensor:
    """What `train.pictures` shows: predictions scaled back by each patch's own statistics."""
    view = normalised(images())
    patches = patchify(view, 4)
    deviation = (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    return made.picture(pred, view, hidden) * deviation + patches.mean(dim=-1, keepdim=True)


def test_a_picture_is_drawn_from_predicted_and_true_tokens() -> None:
    made, view = target(), normalised(images())
    hidden = torch.rand(6, 6) < 0.5
    guess = (made.of(view) + 3) % 8
    ids = torch.where(hidden, guess, made.of(view))
    expected = normalised(made.tokenizer.decode(ids, (2, 3)))
    found = drawn(made, 5.0 * F.one_hot(guess, 8), hidden)
    torch.testing.assert_close(found, patchify(expected, 4), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("norm", [True, False])
def test_pixels_are_scored_and_drawn_in_their_own_units(norm: bool) -> None:
    made = PixelTarget(4, 3, PixelTargetConfig(norm_pix_loss=norm))
    patches = patchify(normalised(images()), 4)
    goal = normalise_patches(patches) if norm else patches
    assert made.out_dim == 48
    torch.testing.assert_close(made.of(normalised(images())), goal)
    loss, terms = made.score(goal[0] + 0.5, goal[0])
    assert float(loss) == pytest.approx(0.25, rel=1e-5)
    assert terms == {}
    made.record(goal)
    assert made.gauges() == {}
    found = drawn(made, goal, torch.ones(6, 6, dtype=torch.bool))
    torch.testing.assert_close(found, patches, atol=1e-4, rtol=1e-4)
