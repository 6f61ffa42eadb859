"""Box sets that exist to be compared with: other images' boxes, and a trained encoder's."""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from contramask.boxes import quality
from contramask.boxes.encoder_maps import ENCODER_MAPS
from contramask.boxes.generate import BoxConfig, generate_boxes
from contramask.boxes.quality import shuffled
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle, random_init_bundle
from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.pixel_decoder import PixelDecoder
from contramask.typed import parse


@pytest.fixture(autouse=True)
def few_crop_pairs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "_PAIRS", 8)
        yield


def test_shuffled_boxes_are_the_same_boxes_of_other_images(tiny_store: Store) -> None:
    own = generate_boxes(tiny_store, BoxConfig())
    dealt = generate_boxes(tiny_store, BoxConfig(deal="shuffled"))
    assert np.array_equal(dealt.boxes, shuffled(own.boxes))
    assert np.array_equal(dealt.heatmaps, shuffled(own.heatmaps))
    assert dealt.table["image_id"].tolist() == tiny_store["train"].ids
    assert dealt.manifest["stats"]["area_mean"] == own.manifest["stats"]["area_mean"]
    assert dealt.manifest["box_set_id"] != own.manifest["box_set_id"]
    found = [each.manifest["quality"]["boxes"]["found"]["iou"] for each in (own, dealt)]
    assert found[0] > found[1] + 0.1


@pytest.mark.parametrize("method", ENCODER_MAPS)
def test_a_trained_encoder_finds_boxes(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path, method: str
) -> None:
    mine = tmp_path / "mine-s0"
    tiny_bundle.write(mine)
    sizes = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
    decoder = TokenDecoder(32, 8 * 8 * 3, (4, 4), sizes)
    PixelDecoder(decoder, 0.75, norm_pix_loss=True).write(mine)
    given = {"method": method, "encoder": mine, "block": 2, "on_alarm": "keep"}
    config = parse(BoxConfig, given, "crop_boxes")
    found = generate_boxes(tiny_store, config)
    assert found.manifest["producer"] == {"kind": "encoder", "grid": 16}
    assert found.manifest["encoder"] == "mine-s0"
    assert set(found.table["method"]) == {method}
    assert found.heatmaps.shape == (len(tiny_store["train"]), 16, 16)
    assert found.heatmaps.dtype == np.uint8
    rows = found.preview["rows"]
    assert np.array_equal(found.preview["heatmaps"], found.heatmaps[rows])
    assert found.preview["heatmaps"].max() == 255
    weights = hashlib.sha256((mine / "encoder.safetensors").read_bytes()).hexdigest()
    checkpoint = found.manifest["checkpoint"]
    assert checkpoint["weights"] == weights
    assert (checkpoint["method"], checkpoint["branch"]) == ("cmae", "online")
    assert (checkpoint["block"], checkpoint["mirrored"]) == (2, True)
    again = generate_boxes(tiny_store, config)
    assert again.manifest["box_set_id"] == found.manifest["box_set_id"]
    assert again.table.equals(found.table)


def test_other_weights_give_another_set(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path
) -> None:
    tiny_bundle.write(tmp_path / "one")
    random_init_bundle(tiny_bundle).write(tmp_path / "two" / "one")
    folders = [tmp_path / "one", tmp_path / "two" / "one"]
    found = [
        generate_boxes(tiny_store, BoxConfig(method="pc1", encoder=each)).manifest
        for each in folders
    ]
    assert found[0]["encoder"] == found[1]["encoder"]
    assert found[0]["checkpoint"]["weights"] != found[1]["checkpoint"]["weights"]
    assert found[0]["box_set_id"] != found[1]["box_set_id"]


def test_an_encoder_without_decoder_gives_no_error_map(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path
) -> None:
    tiny_bundle.write(tmp_path / "mine-s0")
    with pytest.raises(ValueError, match=r"an encoder alone .* set crop_boxes\.method to one of"):
        generate_boxes(tiny_store, BoxConfig(method="rec_err", encoder=tmp_path / "mine-s0"))


def test_an_encoder_that_looks_at_everything_is_refused(
    tiny_store: Store,
    tiny_bundle: EncoderBundle,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Keys that are all the same: nothing can be cut, so every box would be the whole image.
    last = tiny_bundle.encoder.blocks[-1]
    torch.nn.init.zeros_(last.attn.qkv.weight)
    torch.nn.init.ones_(last.attn.qkv.bias)
    tiny_bundle.write(tmp_path / "flat-s0")
    given = {"method": "ncut", "encoder": tmp_path / "flat-s0", "baseline": "none"}
    with caplog.at_level(logging.WARNING, logger="contramask.boxes.generate"):
        found = generate_boxes(tiny_store, parse(BoxConfig, given, "crop_boxes"))
    assert not found.accepted
    assert found.manifest["stats"]["fallback_reasons"] == {"constant_map": 96}
    assert any("REFUSED" in record.message for record in caplog.records)
    with pytest.raises(ValueError, match="was refused"):
        found.training_boxes()


def test_an_encoder_has_to_be_named(tiny_store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set crop_boxes\.encoder to its folder"):
        generate_boxes(tiny_store, BoxConfig(method="pc1"))
    with pytest.raises(ValueError, match="holds no encoder"):
        generate_boxes(tiny_store, BoxConfig(method="pc1", encoder=tmp_path))
