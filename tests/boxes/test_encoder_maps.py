"""Heat maps from an encoder: they find what stands out, and nothing where nothing does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from contramask.boxes.encoder_maps import (
    ENCODER_MAPS,
    EncoderMap,
    EncoderMaps,
    MapChoice,
    encoder_maps,
    read_decoder,
)
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.bundle import EncoderBundle
from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.pixel_decoder import PixelDecoder

CONFIG = EncoderConfig(patch_size=4, embed_dim=32, depth=2, num_heads=2)
#: Without a decoder.
ALONE = ENCODER_MAPS[:-1]
#: What an untrained encoder can tell already: its tokens and keys hold the patches' colours.
TELLING: tuple[EncoderMap, ...] = ("key_sim", "ncut", "pc1", "token_norm")


def bundle(size: tuple[int, int] = (32, 32), kind: str = "vit") -> EncoderBundle:
    torch.manual_seed(0)
    if kind == "vit":
        encoder = build_encoder(CONFIG, size, 3)
    else:
        encoder = build_beit(CONFIG, BeitConfig(), size, 3)
    return EncoderBundle(encoder, {"mean": [0.3, 0.3, 0.3], "std": [0.2, 0.2, 0.2]})


def decoder() -> PixelDecoder:
    torch.manual_seed(0)
    sizes = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
    return PixelDecoder(TokenDecoder(32, 48, (8, 8), sizes), 0.75, True)


def squares(count: int = 6, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Bright squares of 12 px in noise, each elsewhere, none at the border."""
    rng = np.random.default_rng(0)
    images = rng.integers(20, 60, (count, *size, 3)).astype(np.uint8)
    for image in images:
        row, col = rng.integers(4, size[0] - 16), rng.integers(4, size[1] - 16)
        image[row : row + 12, col : col + 12] = rng.integers(150, 250, 3)
    return images


@pytest.mark.parametrize("name", TELLING)
@pytest.mark.parametrize(
    ("size", "kind"), [((32, 32), "vit"), ((24, 40), "vit"), ((32, 32), "beit")]
)
def test_the_map_is_high_on_the_object(size: tuple[int, int], kind: str, name: EncoderMap) -> None:
    images = squares(size=size)
    maps = encoder_maps(bundle(size, kind), MapChoice(name))(images, 8)
    assert maps.shape == (6, 8, 8)
    assert maps.dtype == np.float32
    assert maps.min() == 0
    assert maps.max() == 1
    rows, cols = size[0] // 8, size[1] // 8
    bright = (images.max(axis=-1) > 100).reshape(6, 8, rows, 8, cols).mean(axis=(2, 4))
    assert (maps * (bright == 1)).max(axis=(1, 2)).min() > 0.8
    assert maps[bright == 1].mean() > maps[bright == 0].mean() + 0.3


@pytest.mark.parametrize("kind", ["vit", "beit"])
def test_several_maps_of_one_run_are_those_of_single_runs(kind: str) -> None:
    own, images = bundle(kind=kind), squares()
    choices = [MapChoice(name, block) for name in ALONE for block in (1, None)]
    choices.append(MapChoice("key_sim", 2, "none"))
    together = EncoderMaps(own, choices)(images, 8)
    for choice, maps in zip(choices, together, strict=True):
        np.testing.assert_allclose(maps, encoder_maps(own, choice)(images, 8), atol=1e-4)
    first, last = (together[choices.index(MapChoice("key_sim", n))] for n in (1, None))
    assert np.abs(first - last).max() > 1e-4
    assert np.abs(together[-1] - last).max() > 1e-4


def test_an_image_without_contrast_has_an_empty_map() -> None:
    images = squares()
    images[2] = 90
    choices = [MapChoice(name) for name in ENCODER_MAPS]
    for maps in EncoderMaps(bundle(), choices, decoder())(images, 8):
        assert maps[2].max() == 0
        assert maps[1].max() == 1


@pytest.mark.parametrize("kind", ["vit", "beit"])
def test_a_mirrored_image_has_a_mirrored_map(kind: str) -> None:
    choices = [MapChoice(name) for name in (ENCODER_MAPS if kind == "vit" else ALONE)]
    maps, images = EncoderMaps(bundle(kind=kind), choices, decoder()), squares()
    mirrored = maps(np.ascontiguousarray(images[:, :, ::-1]), 8)
    for one, other in zip(mirrored, maps(images, 8), strict=True):
        np.testing.assert_allclose(one, other[:, :, ::-1], atol=1e-3)


def test_maps_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = [MapChoice(name) for name in ENCODER_MAPS]
    maps, images = EncoderMaps(bundle(), choices, decoder()), squares()
    whole = maps(images, 8)
    monkeypatch.setattr("contramask.boxes.encoder_maps._TOKENS", 130)  # two images a run
    for one, other in zip(whole, maps(images, 8), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    for i in range(len(images)):
        for one, other in zip(whole, maps(images[i : i + 1], 8), strict=True):
            np.testing.assert_allclose(one[i : i + 1], other, atol=1e-3)


def test_images_of_another_size_are_resized() -> None:
    images = squares(size=(64, 64))
    assert encoder_maps(bundle(), MapChoice("pc1"))(images, 8).max() == 1


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="reads 3 channels and the images have 1"):
        encoder_maps(bundle(), MapChoice("pc1"))(squares()[..., :1], 8)


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="has blocks 1 to 2"):
        encoder_maps(bundle(), MapChoice("ncut", 3))


def test_an_error_map_needs_a_decoder(tmp_path: Path) -> None:
    own = bundle()
    with pytest.raises(ValueError, match="needs the pixel decoder"):
        EncoderMaps(own, [MapChoice("rec_err")])
    with pytest.raises(ValueError, match=r"set crop_boxes\.method to one of cls_attn"):
        read_decoder(tmp_path, own, "rec_err")
    assert read_decoder(tmp_path, own, "pc1") is None
    decoder().write(tmp_path)
    found = read_decoder(tmp_path, own, "rec_err")
    maps = encoder_maps(own, MapChoice("rec_err"), found)(squares(), 8)
    assert maps.shape == (6, 8, 8)
    assert maps.max() == 1
