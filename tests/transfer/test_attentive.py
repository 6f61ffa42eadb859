"""Attentive probes: the published poolings, what they learn and what chooses among them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.tracker import NullTracker
from contramask.train.device import Machine
from contramask.transfer.attentive import (
    AttentiveConfig,
    AttentiveHead,
    CrossPool,
    EfficientPool,
    TokenLoader,
    attentive_probe,
    divisor,
    token_rows,
)
from contramask.transfer.feature_cache import Features, Wanted
from contramask.transfer.running import Named
from contramask.typed import ConfigError, parse

FP32 = Machine(torch.device("cpu"), "fp32")
SHORT = AttentiveConfig(epochs=12, batch_size=32, queries=4, pictures=3)


def planted(count: int, seed: int, classes: int = 4) -> Features:
    """Tokens (count, 9, 16) of noise, in one of which, marked, the class is written."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    tokens = rng.normal(size=(count, 9, 16))
    place = rng.integers(0, 9, count)
    tokens[np.arange(count), place] = 0
    tokens[np.arange(count), place, labels] = 6
    tokens[np.arange(count), place, 15] = 12
    arrays = {"tokens": tokens.astype(np.float16)}
    return Features(arrays, labels, Wanted(token_rows=np.arange(count)))


def test_efficient_probing_equals_its_formula() -> None:
    torch.manual_seed(0)
    pool, tokens = EfficientPool(24, 6), torch.randn(5, 7, 24)
    attention = (pool.query @ tokens.transpose(1, 2) / 24**0.5).softmax(dim=2)  # (B, Q, L)
    values = pool.value(tokens).reshape(5, 7, 6, 4)  # every query its own dimensions
    expected = torch.einsum("bql,blqe->bqe", attention, values).flatten(1)
    torch.testing.assert_close(pool(tokens), expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(pool.attention(tokens), attention)


def test_cross_attention_equals_torchs() -> None:
    torch.manual_seed(0)
    pool, tokens = CrossPool(128), torch.randn(5, 7, 128)
    assert pool.queries == 2  # heads of 64
    reference = nn.MultiheadAttention(128, 2, bias=False, batch_first=True)
    with torch.no_grad():
        eye = torch.eye(128)
        weights = torch.cat([eye, pool.key.weight, pool.value.weight])
        reference.in_proj_weight.copy_(weights)
        reference.out_proj.weight.copy_(eye)
    query = pool.query.expand(5, 1, -1)
    expected, attention = reference(query, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(pool(tokens), expected[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pool.attention(tokens), attention[:, :, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("width", "at_most", "found"), [(128, 32, 32), (48, 32, 24), (192, 3, 3), (7, 4, 1), (4, 9, 4)]
)
def test_queries_share_the_width_evenly(width: int, at_most: int, found: int) -> None:
    assert divisor(width, at_most) == found
    assert EfficientPool(width, at_most)(torch.randn(2, 3, width)).shape == (2, width)


def test_a_head_is_pooling_batch_norm_and_a_linear_layer() -> None:
    head = AttentiveHead(EfficientPool(16, 4), 16, 3)
    assert not list(head.norm.parameters())
    assert head(torch.randn(8, 5, 16)).shape == (8, 3)


@pytest.mark.parametrize("pooling", ["ep", "cross"])
def test_it_finds_the_patch_that_matters(pooling: str) -> None:
    train, val = planted(400, 0), planted(100, 1)
    config = AttentiveConfig(epochs=25, batch_size=32, queries=4, learning_rates=(1e-6, 2e-2))
    result = attentive_probe(train, val, pooling, config, FP32, Named("x", 0, NullTracker()))
    assert result.top1 > 95
    assert result.learning_rate == 2e-2  # the other learns nothing
    assert result.attention.shape[::2] == (6, 9)
    assert result.attention.dtype == np.float16
    np.testing.assert_allclose(result.attention.sum(axis=2), 1, atol=0.01)
    marked = np.asarray(val.tokens[result.places, :, 15]).argmax(axis=1)
    looked = result.attention[np.arange(6), :, marked].max(axis=1)
    assert looked.mean() > 0.5


def test_labels_without_meaning_give_chance() -> None:
    train, val = planted(400, 0), planted(400, 1)
    rng = np.random.default_rng(0)
    train = Features(train.arrays, rng.permutation(train.labels.numpy()), Wanted())
    train.token_rows = np.arange(400)
    result = attentive_probe(train, val, "ep", SHORT, FP32, Named("x", 0, NullTracker()))
    assert result.top1 == pytest.approx(25, abs=9)


def test_equal_seeds_give_equal_numbers_and_val_labels_choose_nothing() -> None:
    train, val = planted(200, 0), planted(60, 1)
    shifted = Features(val.arrays, (val.labels.numpy() + 1) % 4, Wanted(token_rows=np.arange(60)))
    first, again, other = (
        attentive_probe(train, v, "ep", SHORT, FP32, Named("x", 3, NullTracker()))
        for v in (val, val, shifted)
    )
    assert first.top1 == again.top1 != other.top1
    assert first.learning_rate == other.learning_rate
    assert np.array_equal(first.attention, other.attention)


def test_batches_are_shuffled_and_know_their_labels() -> None:
    features = planted(50, 0)
    features.token_rows = np.arange(50)
    loader = TokenLoader(features, np.arange(10, 50), 16, seed=1, machine=FP32)
    assert (loader.steps_per_epoch, loader.batch_size) == (2, 16)
    first, again, later = (list(loader.epoch(e)) for e in (0, 0, 1))
    assert torch.equal(first[1]["tokens"], again[1]["tokens"])
    assert not torch.equal(first[0]["tokens"], later[0]["tokens"])
    written = first[0]["tokens"][:, :, 15].argmax(dim=1)
    marked = first[0]["tokens"][torch.arange(16), written, :4]
    assert torch.equal(marked.argmax(dim=1), first[0]["label"])
    assert torch.equal(next(loader.epoch(0, start=1))["tokens"], first[1]["tokens"])


def test_tokens_are_kept_as_space_allows(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    encoder = tiny_bundle.encoder  # 16 tokens of 32 halves: 1 kB an image
    assert len(token_rows(AttentiveConfig(), "train", 96, encoder)) == 96
    tight = AttentiveConfig(token_megabytes=1, train_limit=50)
    assert len(token_rows(tight, "train", 5000, encoder)) == 50
    rows = token_rows(tight, "val", 5000, encoder)
    assert len(rows) == 976
    assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize(
    "values", [{"poolings": ["max"]}, {"learning_rates": []}, {"epochs": 0}, {"train_limit": 1}]
)
def test_impossible_settings_are_refused(values: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"attentive.{next(iter(values))}"):
        parse(AttentiveConfig, values, "attentive")
