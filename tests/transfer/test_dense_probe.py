"""Dense probes: what lies under a patch, who votes for it, and how it is scored."""

from pathlib import Path

import numpy as np
import pytest
import torch

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.train.device import Machine
from contramask.transfer import dense_probe as module
from contramask.transfer.dense_probe import (
    DenseProbeConfig,
    Patches,
    dense_probe,
    nearest_pixels,
    patch_pixels,
)
from contramask.transfer.feature_cache import FeatureCache

FP32 = Machine(torch.device("cpu"), "fp32")
SMALL = DenseProbeConfig(train_images=20, val_images=10, k=(1, 5), weight_decays=(1e-3, 1e-1))


def test_pixels_lie_under_their_patch_row_by_row() -> None:
    maps = np.arange(2 * 4 * 6).reshape(2, 4, 6).astype(np.uint8)
    pixels = patch_pixels(maps, (4, 6), 2)
    assert pixels.shape == (2 * 6, 4)
    assert pixels[0].tolist() == [0, 1, 6, 7]
    assert pixels[1].tolist() == [2, 3, 8, 9]  # the next column
    assert pixels[3].tolist() == [12, 13, 18, 19]  # the next row
    assert pixels[6].tolist() == [24, 25, 30, 31]  # the next image


def test_maps_of_another_size_are_brought_to_the_encoders() -> None:
    maps = np.array([[[0, 1], [2, 255]]], dtype=np.uint8)
    pixels = patch_pixels(maps, (4, 4), 2)
    assert pixels.tolist() == [[0] * 4, [1] * 4, [2] * 4, [255] * 4]


@pytest.mark.parametrize("chunk", [1, 10**6])
def test_neighbours_vote_position_by_position(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(module, "_MAX_VOTES", chunk)
    rng = np.random.default_rng(0)
    pixels = torch.tensor(rng.integers(0, 4, (40, 6)))
    pixels[rng.random((40, 6)) < 0.2] = 255
    train = Patches(torch.tensor(rng.normal(size=(40, 5)), dtype=torch.float32), pixels)
    test = Patches(torch.tensor(rng.normal(size=(7, 5)), dtype=torch.float32), pixels[:7])
    found = nearest_pixels(train, test, 4, [1, 3, 99])
    unit = train.tokens / train.tokens.norm(dim=1, keepdim=True)
    for number, query in enumerate(test.tokens):
        order = (-(unit @ query)).argsort()
        for predicted, k in zip(found, (1, 3, 40), strict=True):
            for place in range(6):
                lent = pixels[order[:k], place]
                counts = torch.bincount(lent[lent != 255], minlength=4)
                assert predicted[number, place] == counts.argmax()


def test_scores_of_both_probes(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path
) -> None:
    found = [
        dense_probe(tiny_bundle, tiny_store, FeatureCache(tmp_path, 10), SMALL, FP32)
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert set(found[0]) == {"dense_linear", "dense_knn"}
    for scores in found[0].values():
        assert set(scores) == {"miou", "macc", "aacc", "fwiou"}
        assert all(0 <= value <= 100 for value in scores.values())
        assert scores["aacc"] > 40  # most pixels are background


def test_a_token_that_names_its_class_scores_fully(
    tiny_store: Store,
    tiny_bundle: EncoderBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = {}
    for split, count in (("train", 20), ("val", 10)):
        labels = torch.arange(count * 16) % 11
        tokens = torch.nn.functional.one_hot(labels, 32).float()
        whole[split] = Patches(tokens, labels[:, None].expand(-1, 64))
    monkeypatch.setattr(module, "_patches", lambda bundle, store, split, *rest: whole[split])
    scores = dense_probe(tiny_bundle, tiny_store, FeatureCache(tmp_path, 10), SMALL, FP32)
    assert scores["dense_linear"]["miou"] == scores["dense_knn"]["miou"] == 100
