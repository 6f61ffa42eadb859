"""The photometric distortion of segmentation recipes, each image with draws of its own.

mmsegmentation's `PhotoMetricDistortion` (from SSD, 1512.02325): brightness, then contrast before or
after saturation and hue, each with probability one half; saturation and hue are those of HSV.
"""

import torch
from torch import Tensor

from contramask.data.colour import shift_hue
from contramask.draws import uniform

#: Stream of random numbers (contramask.draws) this module draws from.
_STREAM = 192
#: Added at most, scaled by, in turns of the hue circle at most: 32 of 255, and 18 of 180 degrees.
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18 / 180


def distort(pixels: Tensor, key: Tensor) -> Tensor:
    """Images uint8 (B, H, W, C) with the brightness and colours drawn from their keys (B,).

    Saturation and hue apply to three channels only.
    """
    draws = uniform(key, _STREAM, 9).to(pixels.device)
    amount, picked = draws[:, :4], draws[:, 4:8] < 0.5
    images = pixels.permute(0, 3, 1, 2).float()
    images = (images + _pick(picked[:, 0], BRIGHTNESS * (2 * amount[:, 0] - 1), 0)).clamp(0, 255)
    contrast = _pick(picked[:, 1], _between(CONTRAST, amount[:, 1]), 1)
    is_early = (draws[:, 8] < 0.5)[:, None, None, None]
    images = (images * torch.where(is_early, contrast, 1)).clamp(0, 255)
    if images.shape[1] == 3:
        images = _saturate(images, _pick(picked[:, 2], _between(SATURATION, amount[:, 2]), 1))
        turned = shift_hue(images / 255, HUE * (2 * amount[:, 3] - 1)) * 255
        images = torch.where(picked[:, 3, None, None, None], turned, images)
    images = (images * torch.where(is_early, 1, contrast)).clamp(0, 255)
    return images.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _pick(picked: Tensor, value: Tensor, neutral: float) -> Tensor:
    """(B, 1, 1, 1): the value where it was picked."""
    return torch.where(picked, value, neutral)[:, None, None, None]


def _between(ends: tuple[float, float], draw: Tensor) -> Tensor:
    return ends[0] + (ends[1] - ends[0]) * draw


def _saturate(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the saturation of HSV, at most to 1; hue and value stay."""
    value = images.amax(dim=1, keepdim=True)
    spread = value - images.amin(dim=1, keepdim=True)
    most = value / spread.clamp_min(1e-8)
    return value - (value - images) * torch.minimum(factor, most)
