"""What is stored so that a page can show where an encoder looks and what is near to what."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.train.device import LaunchConfig, pick_machine
from contramask.transfer.feature_cache import Features, Wanted
from contramask.transfer.features import Normalised, labelled
from contramask.transfer.pictured import (
    PicturesConfig,
    looks,
    neighbours,
    one_of_each,
    patch_colours,
    thumbnails,
)
from contramask.typed import ConfigError, parse

MACHINE = pick_machine(LaunchConfig(device="cpu", precision="fp32"))


def test_every_class_has_its_turn() -> None:
    labels = np.repeat([4, 7, 9], [50, 2, 1])
    rows = one_of_each(labels, 5)
    assert sorted(labels[rows].tolist()) == [4, 4, 7, 7, 9]
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == one_of_each(labels, 5).tolist()
    assert set(labels[one_of_each(labels, 3)]) == {4, 7, 9}
    assert len(one_of_each(labels, 100)) == len(labels)


@pytest.mark.parametrize("family", ["tiny_bundle", "conmim_bundle"])
def test_both_families_show_where_they_look(
    tiny_store: Store, family: str, request: pytest.FixtureRequest
) -> None:
    bundle: EncoderBundle = request.getfixturevalue(family)
    val = labelled(tiny_store["val"])
    rows = np.array([3, 5, 11])
    found = looks(bundle, val, rows, MACHINE)
    heads = bundle.encoder.config.sizes[2]
    assert found["look_attention"].shape == (3, heads, *bundle.encoder.grid_size)
    assert found["look_colours"].shape == (3, *bundle.encoder.grid_size, 3)
    assert {found[n].dtype for n in ("look_attention", "look_colours")} == {np.dtype("float16")}
    given = found["look_attention"].astype(float).sum(axis=(2, 3))
    assert ((given > 0) & (given < 1)).all()  # the rest goes to the class token itself
    assert np.array_equal(found["look_images"], val.__getitems__(rows))


def test_the_attention_is_what_the_last_block_computes(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    val = labelled(tiny_store["val"])
    kept = []
    attn = tiny_bundle.encoder.blocks[-1].attn
    attn.attn_drop.register_forward_hook(lambda module, given, output: kept.append(output))
    found = looks(tiny_bundle, val, np.arange(2), MACHINE)
    attn.fused_attn = False
    tiny_bundle.encoder.eval()
    with torch.no_grad():
        tiny_bundle.encoder.tokens(
            Normalised(tiny_bundle, MACHINE.device)(val.__getitems__(np.arange(2)))
        )
    expected = kept[-1][:, :, 0, 1:].reshape(found["look_attention"].shape)
    assert np.allclose(found["look_attention"], expected, atol=1e-3)


def test_like_patches_have_like_colours() -> None:
    parts = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    kinds = torch.tensor([[0, 0, 1, 2, 3, 0], [1, 1, 3, 3, 2, 0]])
    colours = patch_colours(parts[kinds])
    assert colours.shape == (2, 6, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    same = torch.allclose(colours[0, 0], colours[1, 5], atol=1e-5)
    assert same
    assert (colours[0, 0] - colours[0, 2]).abs().max() > 0.2


def test_neighbours_are_told_with_their_class_and_likeness(tiny_store: Store) -> None:
    splits = (labelled(tiny_store["train"]), labelled(tiny_store["val"]))
    rng = np.random.default_rng(0)
    features = []
    for split in splits:
        # Features of a class lie in one direction: every neighbour is of the query's class.
        clean = np.eye(10, dtype=np.float32)[split.labels]
        noise = 0.01 * rng.normal(size=clean.shape).astype(np.float32)
        features.append(Features({"mean": clean + noise}, split.labels, Wanted()))
    found = neighbours(splits, (features[0], features[1]), PicturesConfig(queries=3, neighbours=4))
    table = found.tables["near"]
    assert len(table) == 12
    assert table["same"].all()
    assert (table["label"] == table["truth"]).all()
    assert table["similarity"].between(0.9, 1.001).all()
    assert (table.groupby("query")["similarity"].diff().dropna() <= 1e-6).all()
    assert found.arrays["near_images"].shape == (3, 4, *tiny_store["val"].images.shape[1:])
    ids = tiny_store["train"].ids
    shown = tiny_store["train"].images[[ids.index(name) for name in table["id"]]]
    assert np.array_equal(found.arrays["near_images"].reshape(shown.shape), shown)


def test_large_images_become_thumbnails() -> None:
    images = np.full((2, 200, 400, 3), 77, np.uint8)
    assert thumbnails(images).shape == (2, 56, 112, 3)
    assert (thumbnails(images) == 77).all()
    small = np.zeros((1, 32, 32, 1), np.uint8)
    assert thumbnails(small) is small


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pictures\.looks"):
        parse(PicturesConfig, {"looks": 0}, "pictures")
    assert replace(PicturesConfig(), looks=2).looks == 2
