"""Features on disk: read once, made again for whatever changes them, whole or not at all."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contramask.data.loader import Subset
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.train.device import Machine
from contramask.transfer import feature_cache
from contramask.transfer.feature_cache import FeatureCache, Source, Wanted, encoder_hash
from contramask.transfer.features import Normalised, extract_features, feature_batches, labelled

FP32 = Machine(torch.device("cpu"), "fp32")
SOME = Wanted(blocks=(1,), token_rows=np.array([0, 3, 4, 40]))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods whose encoders read images, one entry a pass."""
    made: list[str] = []

    def counted(bundle: EncoderBundle, *rest: Any, **named: Any) -> Any:
        made.append(bundle.manifest["method"])
        return feature_batches(bundle, *rest, **named)

    monkeypatch.setattr(feature_cache, "feature_batches", counted)
    return made


@pytest.fixture
def source(tiny_store: Store) -> Source:
    """The labelled val images."""
    return Source(labelled(tiny_store["val"]), "val", tiny_store.data_hash)


def test_what_is_read_back_is_what_one_pass_gives(
    tmp_path: Path, source: Source, tiny_bundle: EncoderBundle
) -> None:
    cache = FeatureCache(tmp_path, 100)
    expected = extract_features(tiny_bundle, source.images, FP32, blocks=(1,))
    for _ in range(2):  # made, then found
        features = cache.features(tiny_bundle, source, SOME, FP32)
        for name, values in expected.items():
            assert torch.equal(features.readout(name), values)
        both = torch.cat([expected["cls"], expected["mean"]], dim=1)
        assert torch.equal(features.readout("cls+mean"), both)
        assert np.array_equal(features.labels.numpy(), source.images.labels)
        assert features.tokens.shape == (4, 16, 32)
        assert features.tokens.dtype == np.float16
        means = torch.from_numpy(np.array(features.tokens)).float().mean(dim=1)
        torch.testing.assert_close(means, expected["mean"][SOME.token_rows], atol=2e-3, rtol=0)
        assert isinstance(features.arrays["cls"], np.memmap)


def test_images_are_read_once(
    tmp_path: Path, source: Source, tiny_bundle: EncoderBundle, passes: list[str]
) -> None:
    for _ in range(3):
        FeatureCache(tmp_path, 100).features(tiny_bundle, source, Wanted(), FP32)
    assert passes == ["cmae"]
    # Who trained the encoder is of no matter; what it computes is.
    renamed = EncoderBundle(tiny_bundle.encoder, {**tiny_bundle.manifest, "method": "mae"})
    FeatureCache(tmp_path, 100).features(renamed, source, Wanted(), FP32)
    assert passes == ["cmae"]


def test_whatever_changes_features_makes_them_again(
    tmp_path: Path,
    tiny_store: Store,
    source: Source,
    tiny_bundle: EncoderBundle,
    passes: list[str],
) -> None:
    cache = FeatureCache(tmp_path, 100)
    cache.features(tiny_bundle, source, Wanted(), FP32)
    brighter = {**tiny_bundle.manifest, "mean": [0.1, 0.1, 0.1]}
    fewer = Subset(tiny_store["val"], np.arange(40))
    changed = [
        (random_init_bundle(tiny_bundle), source, Wanted(), FP32),
        (EncoderBundle(tiny_bundle.encoder, brighter), source, Wanted(), FP32),
        (tiny_bundle, replace(source, data_hash="other"), Wanted(), FP32),
        (tiny_bundle, replace(source, split="train"), Wanted(), FP32),
        (tiny_bundle, replace(source, images=fewer), Wanted(), FP32),
        (tiny_bundle, source, Wanted(blocks=(1,)), FP32),
        (tiny_bundle, source, Wanted(eval_crop=0.5), FP32),
        (tiny_bundle, source, Wanted(token_rows=np.array([1])), FP32),
        (tiny_bundle, source, Wanted(), Machine(torch.device("cpu"), "bf16")),
    ]
    for number, case in enumerate(changed, start=2):
        cache.features(*case)
        assert len(passes) == number
    with torch.no_grad():
        next(tiny_bundle.encoder.parameters()).add_(1e-3)
    cache.features(tiny_bundle, source, Wanted(), FP32)
    assert len(passes) == len(changed) + 2


def test_the_hash_sees_weights_not_their_storage(tiny_bundle: EncoderBundle) -> None:
    before = encoder_hash(tiny_bundle)
    copy = tiny_bundle.encoder.resized(tiny_bundle.encoder.image_size)
    assert encoder_hash(EncoderBundle(copy, tiny_bundle.manifest)) == before
    assert encoder_hash(random_init_bundle(tiny_bundle)) != before


def test_an_interrupted_pass_leaves_nothing(
    tmp_path: Path, source: Source, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **named: Any) -> Any:
        yield next(feature_batches(*arguments, **named))
        raise KeyboardInterrupt

    monkeypatch.setattr(feature_cache, "feature_batches", broken)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, 100).features(tiny_bundle, source, SOME, FP32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["gone", "short", "shape", "manifest", "json"])
def test_damaged_features_are_made_again(
    tmp_path: Path, source: Source, tiny_bundle: EncoderBundle, passes: list[str], damage: str
) -> None:
    cache = FeatureCache(tmp_path, 100)
    right = cache.features(tiny_bundle, source, Wanted(), FP32).readout("mean").clone()
    (folder,) = tmp_path.iterdir()
    if damage == "gone":
        (folder / "mean.npy").unlink()
    elif damage == "short":
        os.truncate(folder / "mean.npy", 200)
    elif damage == "shape":
        np.save(folder / "mean.npy", np.zeros((3, 32), np.float32))
    elif damage == "json":
        (folder / "manifest.json").write_text("{")
    else:
        found = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**found, "encoder": "another"}))
    again = cache.features(tiny_bundle, source, Wanted(), FP32)
    assert torch.equal(again.readout("mean"), right)
    assert len(passes) == 2
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_least_recently_used_are_removed(
    tmp_path: Path, source: Source, tiny_bundle: EncoderBundle
) -> None:
    cache = FeatureCache(tmp_path, 100)
    folders = []
    for number in range(4):
        other = replace(source, data_hash=str(number))
        cache.features(tiny_bundle, other, Wanted(), FP32)
        (new,) = set(tmp_path.iterdir()) - set(folders)
        folders.append(new)
        os.utime(new, (1000 + number, 1000 + number))
    size = sum(file.stat().st_size for file in folders[0].iterdir()) / 1e6
    abandoned = tmp_path / ".half-written"
    shutil.copytree(folders[0], abandoned)
    os.utime(abandoned, (500, 500))
    small = FeatureCache(tmp_path, 0)
    small.megabytes = 2.5 * size  # type: ignore[assignment]
    small.features(tiny_bundle, replace(source, data_hash="1"), Wanted(), FP32)
    assert set(tmp_path.iterdir()) == {folders[1], folders[3]}
    # What is in use stays, even where it is too large.
    tiny = FeatureCache(tmp_path, 0)
    kept = tiny.features(tiny_bundle, replace(source, data_hash="3"), Wanted(), FP32)
    assert set(tmp_path.iterdir()) == {folders[3]}
    assert kept.readout("mean").isfinite().all()


def test_huge_tokens_stay_finite(
    tmp_path: Path, source: Source, tiny_bundle: EncoderBundle
) -> None:
    with torch.no_grad():
        tiny_bundle.encoder.norm.weight.mul_(1e6)
    features = FeatureCache(tmp_path, 100).features(tiny_bundle, source, SOME, FP32)
    assert np.isfinite(features.tokens).all()
    assert np.abs(features.tokens).max() == np.finfo(np.float16).max


def test_features_of_the_centre_are_those_of_a_store_of_centres(
    tiny_bundle: EncoderBundle, source: Source, tmp_path: Path
) -> None:
    found = FeatureCache(tmp_path, 100).features(tiny_bundle, source, Wanted(eval_crop=0.5), FP32)
    pixels = source.images.__getitems__(np.arange(len(source.images)))
    with torch.no_grad():
        middle = Normalised(tiny_bundle, FP32.device)(pixels[:, 8:24, 8:24])
        tokens = tiny_bundle.encoder.eval().forward_tokens(middle)
    torch.testing.assert_close(found.readout("cls"), tokens[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        found.readout("mean"), tokens[:, 1:].mean(dim=1), atol=1e-5, rtol=1e-5
    )
