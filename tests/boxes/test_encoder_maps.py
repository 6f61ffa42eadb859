"""Heat maps from an encoder: they find what stands out, and nothing where nothing does."""

import numpy as np
import pytest
import torch

from contramask.boxes.encoder_maps import encoder_maps
from contramask.models.bundle import EncoderBundle
from contramask.models.encoder import EncoderConfig, build_encoder

CONFIG = EncoderConfig(patch_size=4, embed_dim=32, depth=2, num_heads=2)


def bundle(size: tuple[int, int] = (32, 32)) -> EncoderBundle:
    torch.manual_seed(0)
    encoder = build_encoder(CONFIG, size, 3)
    return EncoderBundle(encoder, {"mean": [0.3, 0.3, 0.3], "std": [0.2, 0.2, 0.2]})


def squares(count: int = 6, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Bright squares of 12 px in noise, each elsewhere, none at the border."""
    rng = np.random.default_rng(0)
    images = rng.integers(20, 60, (count, *size, 3)).astype(np.uint8)
    for image in images:
        row, col = rng.integers(4, size[0] - 16), rng.integers(4, size[1] - 16)
        image[row : row + 12, col : col + 12] = rng.integers(150, 250, 3)
    return images


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_the_map_is_high_on_the_object(size: tuple[int, int]) -> None:
    images = squares(size=size)
    maps = encoder_maps(bundle(size))(images, 8)
    assert maps.shape == (6, 8, 8)
    assert maps.dtype == np.float32
    assert maps.min() == 0
    assert maps.max() == 1
    rows, cols = size[0] // 8, size[1] // 8
    bright = (images.max(axis=-1) > 100).reshape(6, 8, rows, 8, cols).mean(axis=(2, 4))
    assert (maps * (bright == 1)).max(axis=(1, 2)).min() > 0.8
    assert maps[bright == 1].mean() > maps[bright == 0].mean() + 0.3


def test_an_image_without_contrast_has_an_empty_map() -> None:
    images = squares()
    images[2] = 90
    maps = encoder_maps(bundle())(images, 8)
    assert maps[2].max() == 0
    assert maps[1].max() == 1


def test_a_mirrored_image_has_a_mirrored_map() -> None:
    producer, images = encoder_maps(bundle()), squares()
    mirrored = producer(np.ascontiguousarray(images[:, :, ::-1]), 8)
    np.testing.assert_allclose(mirrored, producer(images, 8)[:, :, ::-1], atol=1e-3)


def test_maps_do_not_depend_on_the_batch() -> None:
    producer, images = encoder_maps(bundle()), squares()
    single = np.concatenate([producer(images[i : i + 1], 8) for i in range(len(images))])
    np.testing.assert_allclose(producer(images, 8), single, atol=1e-3)


def test_images_of_another_size_are_resized() -> None:
    images = squares(size=(64, 64))
    assert encoder_maps(bundle())(images, 8).max() == 1


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="reads 3 channels and the images have 1"):
        encoder_maps(bundle())(squares()[..., :1], 8)
