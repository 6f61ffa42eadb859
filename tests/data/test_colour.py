"""Colour changes against torchvision, image by image, in every order."""

import itertools

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from contramask.data.colour import (
    ColourConfig,
    _alter_all,
    _alter_picked,
    _blur,
    _jitter,
    alter_colours,
    shift_hue,
)
from contramask.draws import image_keys, uniform

NAMES = ("brightness", "contrast", "saturation", "hue")
ORDERS = list(itertools.permutations(range(4)))
STREAM = 3


def keys(count: int) -> Tensor:
    return image_keys(1, 0, torch.arange(count))


def some_images(count: int, side: int = 12, channels: int = 3) -> Tensor:
    """Random colours in [0, 1] with grey, black, white and two-equal-channel pixels among them."""
    generator = torch.Generator().manual_seed(count)
    images = torch.rand(count, channels, side, side, generator=generator)
    images[:, :, 0] = images[:, :1, 0]  # a row of greys
    images[:, :, 1, :3], images[:, :, 1, 3:6] = 0.0, 1.0
    images[:, 1:2, 2] = images[:, :1, 2]  # red equals green
    return images


def draws_for(order: tuple[int, ...], level: float) -> Tensor:
    """Draws (13,) that put the changes into this order, all at the same level in [0, 1)."""
    draws = torch.full((13,), level)
    for place, change in enumerate(order):
        draws[9 + change] = place / 4
    return draws


def reference(image: Tensor, order: tuple[int, ...], config: ColourConfig, level: float) -> Tensor:
    """torchvision's jitter of one image (C, H, W) in [0, 1], step by step."""
    sign = 2 * level - 1
    for change in order:
        amount = getattr(config, NAMES[change]) * sign
        if NAMES[change] == "hue":
            image = F.adjust_hue(image, amount)
        else:
            image = getattr(F, f"adjust_{NAMES[change]}")(image, 1 + amount)
    return image


@pytest.mark.parametrize("level", [0.0, 0.3, 0.97])
def test_jitter_equals_torchvisions_in_every_order(level: float) -> None:
    config = ColourConfig(brightness=0.4, contrast=0.5, saturation=0.6, hue=0.1)
    images = some_images(1).expand(len(ORDERS), -1, -1, -1)
    draws = torch.stack([draws_for(order, level) for order in ORDERS])
    ours = _jitter(images, config, draws)  # one batch, every image in an order of its own
    theirs = torch.stack([reference(images[0], order, config, level) for order in ORDERS])
    assert (ours - theirs).abs().max() < 1e-3
    assert len(ours.flatten(1).unique(dim=0)) > len(ORDERS) / 3  # the order matters


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", [0.0, 0.25, 0.9])
def test_each_change_alone_equals_torchvisions(name: str, level: float) -> None:
    strengths = {**dict.fromkeys(NAMES, 0.0), name: 0.5}
    config, images = ColourConfig(**strengths), some_images(4)
    order = (3, 0, 2, 1)
    ours = _jitter(images, config, draws_for(order, level).expand(4, -1))
    theirs = torch.stack([reference(image, order, config, level) for image in images])
    assert (ours - theirs).abs().max() < 1e-4
    assert (ours - images).abs().max() > 0.05


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 0.3, 0.5])
def test_hue_equals_torchvisions_and_leaves_grey_alone(shift: float) -> None:
    images = some_images(3)
    ours = shift_hue(images, torch.full((3,), shift))
    assert (ours - F.adjust_hue(images, shift)).abs().max() < 1e-4
    assert (ours[:, :, 0] - images[:, :, 0]).abs().max() < 1e-6


def test_every_image_has_draws_of_its_own() -> None:
    images = 255 * some_images(1).expand(64, -1, -1, -1)
    config = ColourConfig(jitter=1, grey=0, blur=0)
    altered = alter_colours(images, config, keys(64), STREAM, (12, 12))
    assert len(altered.flatten(1).unique(dim=0)) == 64


def test_an_image_is_altered_alike_in_every_batch() -> None:
    images, key = 255 * some_images(8), keys(8)
    whole = alter_colours(images, ColourConfig(), key, STREAM, (12, 12))
    alone = alter_colours(images[3:4], ColourConfig(), key[3:4], STREAM, (12, 12))
    torch.testing.assert_close(alone, whole[3:4], atol=1e-3, rtol=0)
    other = alter_colours(images, ColourConfig(), key, STREAM + 1, (12, 12))
    assert not torch.allclose(other, whole)


@pytest.mark.parametrize("name", ["jitter", "grey", "blur"])
def test_probabilities(name: str) -> None:
    count, probability = 4000, getattr(ColourConfig(), name)
    config = ColourConfig(**{**dict.fromkeys(("jitter", "grey", "blur"), 0), name: probability})
    images = 255 * some_images(1, side=3).expand(count, -1, -1, -1)
    altered = alter_colours(images, config, keys(count), STREAM, (224, 224))
    changed = ((altered - images).abs().amax(dim=(1, 2, 3)) > 0.01).float().mean()
    noise = (probability * (1 - probability) / count) ** 0.5
    assert abs(changed - probability) < 4 * noise + 0.01  # the faintest blurs change nothing


def test_zero_probabilities_change_nothing() -> None:
    images = 255 * some_images(16)
    config = ColourConfig(jitter=0, grey=0, blur=0)
    altered = alter_colours(images, config, keys(16), STREAM, (12, 12))
    torch.testing.assert_close(altered, images)


def test_greyscale_weights() -> None:
    pure = 255 * torch.eye(3)[:, :, None, None].expand(-1, -1, 2, 2)
    config = ColourConfig(jitter=0, grey=1, blur=0)
    grey = alter_colours(pure, config, keys(3), STREAM, (2, 2)) / 255
    expected = torch.tensor([0.2989, 0.587, 0.114])
    torch.testing.assert_close(grey[:, 0, 0, 0], expected)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    theirs = F.rgb_to_grayscale(pure / 255, num_output_channels=3)
    assert (grey - theirs).abs().max() < 1e-3


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.3, 2.0])
def test_blur_equals_torchvisions_away_from_borders(sigma: float) -> None:
    images = some_images(2, side=40)
    ours = _blur(images, torch.full((2,), sigma))
    theirs = F.gaussian_blur(images, kernel_size=[25, 25], sigma=[sigma, sigma])
    inner = slice(12, 28)
    assert (ours - theirs)[..., inner, inner].abs().max() < 1e-3


def test_blur_keeps_a_flat_image_and_the_range() -> None:
    sigma = torch.tensor([0.01, 3.0])
    flat = torch.full((2, 3, 9, 14), 0.7)
    torch.testing.assert_close(_blur(flat, sigma), flat)
    blurred = _blur(some_images(2), sigma)
    assert blurred.min() >= 0
    assert blurred.max() <= 1 + 1e-6


def test_blur_sigma_scales_with_the_view() -> None:
    images = 255 * some_images(1, side=32).expand(6, -1, -1, -1)
    config = ColourConfig(jitter=0, grey=0, blur=1, blur_sigma=(2.0, 2.0))
    full = alter_colours(images, config, keys(6), STREAM, (224, 224))
    half = alter_colours(images, config, keys(6), STREAM, (112, 112))
    expected = [_blur(images / 255, torch.full((6,), sigma)) * 255 for sigma in (2.0, 1.0)]
    torch.testing.assert_close(full, expected[0], atol=1e-2, rtol=0)
    torch.testing.assert_close(half, expected[1], atol=1e-2, rtol=0)


@pytest.mark.parametrize("channels", [1, 5])
def test_saturation_hue_and_grey_are_for_colour_images_only(channels: int) -> None:
    images = 255 * some_images(8, channels=channels)
    config = ColourConfig(brightness=0, contrast=0, saturation=1, hue=0.5, jitter=1, grey=1, blur=0)
    altered = alter_colours(images, config, keys(8), STREAM, (12, 12))
    torch.testing.assert_close(altered, images)


def test_brightness_and_contrast_of_one_channel_equal_torchvisions() -> None:
    image = some_images(1, channels=1)[0]
    config, order = ColourConfig(brightness=0.4, contrast=0.4), (1, 0)
    for level in (0.1, 0.8):
        ours = _jitter(image[None], config, draws_for((1, 0, 2, 3), level)[None])[0]
        assert (ours - reference(image, order, config, level)).abs().max() < 1e-4


def test_all_values_stay_in_range_and_the_input_is_kept() -> None:
    images = 255 * some_images(64)
    before = images.clone()
    strong = ColourConfig(brightness=1, contrast=1, saturation=1, hue=0.5, jitter=1)
    altered = alter_colours(images, strong, keys(64), STREAM, (12, 12))
    assert altered.isfinite().all()
    assert altered.min() >= 0
    assert altered.max() <= 255.01
    assert torch.equal(images, before)


def test_solarising_inverts_what_is_bright_as_pil_does() -> None:
    levels = torch.arange(256, dtype=torch.float32).reshape(1, 1, 16, 16).expand(64, 3, -1, -1)
    config = ColourConfig(jitter=0, grey=0, blur=0, solarise=0.5)
    changed = alter_colours(levels, config, keys(64), STREAM, (16, 16))
    expected = F.solarize(levels[0].to(torch.uint8), 128).float()
    altered = (changed - levels).abs().amax((1, 2, 3)) > 1
    assert 20 < int(altered.sum()) < 44
    torch.testing.assert_close(changed[altered], expected.expand(64, -1, -1, -1)[altered])
    torch.testing.assert_close(changed[~altered], levels[~altered])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_changing_only_what_was_drawn_equals_changing_all_and_choosing(channels: int) -> None:
    """The processor's way and the accelerators' way."""
    images = torch.rand(64, channels, 24, 40)
    config = ColourConfig(solarise=0.3)
    draws = uniform(image_keys(5, 0, torch.arange(64)), 3, 14)
    sigma = 0.1 + 1.9 * draws[:, 3]
    expected = _alter_all(images.clone(), config, draws, sigma)
    made = _alter_picked(images.clone(), config, draws, sigma)
    changed = (made - images).abs().amax(dim=(1, 2, 3)) > 0
    assert 40 < changed.sum() < 64
    # Solarising turns a last bit at its threshold into a jump.
    assert ((made - expected).abs() > 1e-5).float().mean() < 1e-3


def test_nothing_drawn_nothing_changed() -> None:
    images, key = torch.rand(4, 3, 16, 16) * 255, image_keys(0, 0, torch.arange(4))
    still = ColourConfig(jitter=0, grey=0, blur=0)
    torch.testing.assert_close(alter_colours(images, still, key, 3, (16, 16)), images)
