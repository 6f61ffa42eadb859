"""Photometric distortion: mmsegmentation's ranges, draws by image, grey stays grey."""

import colorsys

import pytest
import torch

from contramask.data import photometric
from contramask.data.photometric import distort
from contramask.draws import image_keys

KEYS = image_keys(0, 0, torch.arange(400))


def images(count: int, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(60, 190, (count, 6, 5, channels), generator=generator, dtype=torch.uint8)


def alone(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Leave only one kind of change."""
    neutral = {"BRIGHTNESS": 0.0, "CONTRAST": (1.0, 1.0), "SATURATION": (1.0, 1.0), "HUE": 0.0}
    for name, value in neutral.items():
        if name != change:
            monkeypatch.setattr(photometric, name, value)


def test_draws_belong_to_images_and_not_to_batches() -> None:
    pixels = images(8)
    whole = distort(pixels, KEYS[:8])
    assert whole.dtype == torch.uint8
    assert whole.shape == pixels.shape
    assert torch.equal(whole[3:5], distort(pixels[3:5], KEYS[3:5]))
    assert not torch.equal(whole, distort(pixels, KEYS[8:16]))


def test_brightness_is_added_to_half_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, "BRIGHTNESS")
    pixels = images(1).expand(400, -1, -1, -1)
    moved = distort(pixels, KEYS).int() - pixels.int()
    assert (moved.amax(dim=(1, 2, 3)) - moved.amin(dim=(1, 2, 3)) <= 1).all()  # rounding of hue
    by_image = moved.float().mean(dim=(1, 2, 3))
    assert 25 < by_image.max() <= 32
    assert -32 <= by_image.min() < -25
    assert 150 < int((by_image.abs() > 0.5).sum()) < 250


def test_contrast_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, "CONTRAST")
    pixels = torch.full((400, 2, 2, 1), 100, dtype=torch.uint8)
    found = distort(pixels, KEYS)[:, 0, 0, 0].int()
    assert 50 <= int(found.min()) < 60
    assert 140 < int(found.max()) <= 150
    assert 150 < int((found != 100).sum()) < 250


def test_saturation_keeps_hue_and_value(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, "SATURATION")
    pixel = torch.tensor([180, 120, 80], dtype=torch.uint8)
    found = distort(pixel.expand(400, 1, 1, 3).contiguous(), KEYS)[:, 0, 0].tolist()
    hue, saturation, value = colorsys.rgb_to_hsv(*(v / 255 for v in pixel.tolist()))
    hsv = torch.tensor([colorsys.rgb_to_hsv(*(v / 255 for v in one)) for one in found])
    assert (hsv[:, 0] - hue).abs().max() < 0.02
    assert (hsv[:, 2] - value).abs().max() < 0.01
    ratio = hsv[:, 1] / saturation
    assert 0.48 < ratio.min() < 0.6
    assert 1.4 < ratio.max() < 1.52


def test_hue_turns_by_a_tenth_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, "HUE")
    pixel = torch.tensor([60, 180, 60], dtype=torch.uint8)
    found = distort(pixel.expand(400, 1, 1, 3).contiguous(), KEYS)[:, 0, 0].tolist()
    hues = torch.tensor([colorsys.rgb_to_hsv(*(v / 255 for v in one))[0] for one in found])
    turned = hues - 1 / 3
    assert 0.08 < turned.max() < 0.105
    assert -0.105 < turned.min() < -0.08


def test_grey_stays_grey_and_other_channels_work() -> None:
    grey = images(50, 1).expand(-1, -1, -1, 3).contiguous()
    found = distort(grey, KEYS[:50]).int()
    assert (found - found[..., :1]).abs().max() <= 1
    assert distort(images(4, 5), KEYS[:4]).shape == (4, 6, 5, 5)
