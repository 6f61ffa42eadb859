"""Features of a frozen encoder: normalised as it was trained, every readout, every image once."""

import numpy as np
import pytest
import torch

from contramask.data.store import Store
from contramask.data.views import whole_images
from contramask.models.bundle import EncoderBundle
from contramask.train.device import Machine
from contramask.transfer.features import (
    READOUTS,
    Normalised,
    RandomCrops,
    centre,
    extract_features,
    feature_batches,
    labelled,
    nothing_to_probe,
    side_by_side,
    unlabelled,
)

CPU = torch.device("cpu")
FP32 = Machine(CPU, "fp32")


def test_inputs_are_normalised_with_the_encoders_own_statistics(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    other = EncoderBundle(
        tiny_bundle.encoder,
        {**tiny_bundle.manifest, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 0.125]},
    )
    images = tiny_store["val"].__getitems__(range(3))
    found = Normalised(other, CPU)(images)
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 0.125])
    expected = ((images / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.abs(found.numpy() - expected).max() < 1e-5


def test_images_of_another_size_are_resized_to_the_encoders(
    plain_store: Store, tiny_bundle: EncoderBundle
) -> None:
    images = plain_store["train"].__getitems__(range(3))  # 16 px, the encoder reads 32
    inputs = Normalised(tiny_bundle, CPU)
    found = inputs(images)
    assert found.shape == (3, 3, 32, 32)
    pixels = whole_images(torch.from_numpy(images), (32, 32))
    torch.testing.assert_close(found * inputs.std + inputs.mean, pixels, atol=1e-3, rtol=0)


@pytest.mark.parametrize("batch_size", [7, 48])
def test_features_are_the_tokens_after_the_final_norm(
    tiny_store: Store, tiny_bundle: EncoderBundle, batch_size: int
) -> None:
    split = tiny_store["val"]
    features = extract_features(tiny_bundle, split, FP32, batch_size)
    assert tuple(features) == READOUTS == ("cls", "mean")
    images = Normalised(tiny_bundle, CPU)(split.__getitems__(range(48)))
    with torch.no_grad():
        tokens = tiny_bundle.encoder.eval().forward_tokens(images)
    torch.testing.assert_close(features["cls"], tokens[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(features["mean"], tokens[:, 1:].mean(dim=1), atol=1e-5, rtol=1e-4)
    assert features["cls"].shape == (48, 32)


def test_features_after_a_block_pass_the_final_norm(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    split, encoder = tiny_store["val"], tiny_bundle.encoder
    features = extract_features(tiny_bundle, split, FP32, blocks=(1, 2))
    assert list(features) == [
        "cls",
        "mean",
        "block1-cls",
        "block1-mean",
        "block2-cls",
        "block2-mean",
    ]
    for readout in READOUTS:  # nothing follows the last block but the norm
        torch.testing.assert_close(features[f"block2-{readout}"], features[readout])
    images = Normalised(tiny_bundle, CPU)(split.__getitems__(range(48)))
    with torch.no_grad():
        tokens = encoder.norm(encoder.blocks[0](encoder.embed(images)))
    torch.testing.assert_close(features["block1-cls"], tokens[:, 0], atol=1e-5, rtol=1e-4)
    mean = tokens[:, 1:].mean(dim=1)
    torch.testing.assert_close(features["block1-mean"], mean, atol=1e-5, rtol=1e-4)
    assert not any(block._forward_hooks for block in encoder.blocks)


def test_a_block_the_encoder_lacks_is_named(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    with pytest.raises(ValueError, match="block 3, but the encoder's blocks are numbered 1 to 2"):
        extract_features(tiny_bundle, tiny_store["val"], FP32, blocks=(1, 3))


def test_one_pass_gives_pooled_and_patch_tokens(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    seen = []
    for rows, found in feature_batches(tiny_bundle, tiny_store["val"], FP32, batch_size=20):
        seen += rows.tolist()
        assert found["tokens"].shape == (len(rows), 16, 32)
        torch.testing.assert_close(found["tokens"].mean(dim=1), found["mean"])
        assert not torch.is_autocast_enabled("cpu")
    assert seen == list(range(48))


def test_readouts_side_by_side() -> None:
    features = {"cls": torch.zeros(3, 2), "mean": torch.ones(3, 4)}
    assert side_by_side(features, "cls+mean").tolist() == [[0, 0, 1, 1, 1, 1]] * 3
    assert side_by_side(features, "mean") is features["mean"]


def test_another_view_of_each_image_is_fixed_by_its_row(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    crops = RandomCrops(tiny_bundle, CPU)
    pixels = tiny_store["val"].__getitems__(range(4))
    views = crops(pixels, np.arange(4))
    assert views.shape == (4, 3, 32, 32)
    torch.testing.assert_close(views[2:], crops(pixels[2:], np.array([2, 3])))
    assert not torch.allclose(views, Normalised(tiny_bundle, CPU)(pixels))
    features = extract_features(tiny_bundle, tiny_store["val"], FP32, inputs=crops)
    assert not torch.equal(
        features["mean"], extract_features(*(tiny_bundle, tiny_store["val"], FP32))["mean"]
    )


def test_features_are_float32_whatever_the_precision(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    exact = extract_features(tiny_bundle, tiny_store["val"], FP32)
    rough = extract_features(tiny_bundle, tiny_store["val"], Machine(CPU, "bf16"))
    for readout in READOUTS:
        assert rough[readout].dtype == torch.float32
        assert not rough[readout].requires_grad
        assert (rough[readout] - exact[readout]).abs().max() < 0.1
        assert not torch.equal(rough[readout], exact[readout])


def test_only_labelled_images_are_classified(shade_store: Store, plain_store: Store) -> None:
    train = labelled(shade_store["train"])
    assert len(shade_store["train"]) == 49
    assert len(train) == 48
    assert set(train.labels) == {0, 1}
    first = train.__getitems__(np.array([0]))
    assert np.array_equal(first[0], shade_store["train"].images[train.rows[0]])
    assert len(labelled(plain_store["train"])) == 0


def test_why_a_store_cannot_be_classified(
    tiny_store: Store, shade_store: Store, plain_store: Store
) -> None:
    assert unlabelled(tiny_store) == unlabelled(shade_store) == ""
    assert unlabelled(plain_store) == "the images have no class labels"


def test_the_centre_is_cut_from_the_middle() -> None:
    pixels = np.arange(8 * 8).reshape(1, 8, 8, 1)
    assert np.array_equal(centre(pixels, 0.5), pixels[:, 2:6, 2:6])
    assert centre(pixels, 1.0).shape == (1, 8, 8, 1)
    assert centre(np.zeros((2, 256, 256, 3)), 0.875).shape == (2, 224, 224, 3)


def test_a_probe_needs_images_of_both_splits_and_nothing_else(
    tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in tiny_store.splits.values():
        monkeypatch.setattr(split, "labels", np.full(len(split), -1))
    assert nothing_to_probe(tiny_store) == ""
    monkeypatch.setattr(tiny_store, "splits", {"train": tiny_store["train"]})
    assert nothing_to_probe(tiny_store) == "there are no validation images"
