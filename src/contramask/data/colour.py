"""Colour jitter, greyscale and blur for whole batches, each image with draws of its own.

torchvision's definitions (brightness, contrast, saturation, hue in random order, each clamped),
without a loop over images. On accelerators all images take the same way: brightness, contrast and
saturation are x * a + (1 - a) * reference and take their place in the order by being neutral
elsewhere. A processor pays for what is neutral, so there images that share an order go together,
and only those that are changed go at all; the results are the same.
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional

from contramask.data.constants import constant
from contramask.draws import uniform
from contramask.typed import STRICT

Strength = Annotated[float, Field(ge=0, le=1)]
Sigma = Annotated[float, Field(gt=0)]
_GREY = (0.2989, 0.587, 0.114)  # luma of ITU-R 601, as torchvision rounds it
_SOLARISE_FROM = 128 / 255  # PIL's threshold: what is as bright is inverted
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


@dataclass(frozen=True, config=STRICT)
class ColourConfig:
    """Colour changes of the target view; the defaults are CMAE's released values.

    `blur_sigma` is in pixels of a 224 px view and scales with the real size. Saturation, hue and
    greyscale apply to three-channel images only.
    """

    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    jitter: Strength = 0.8  # probability of the four together
    grey: Strength = 0.2  # probability
    blur: Strength = 0.5  # probability
    blur_sigma: tuple[Sigma, Sigma] = (0.1, 2.0)
    solarise: Strength = 0.0  # probability; ConMIM's is 0.2


def alter_colours(
    pixels: Tensor, config: ColourConfig, key: Tensor, stream: int, size: tuple[int, int]
) -> Tensor:
    """Jitter, greyscale, blur, then solarise float images (B, C, H, W) in 0..255."""
    draws = uniform(key, stream + 32, 14)
    low, high = (sigma * max(size) / 224 for sigma in config.blur_sigma)
    sigma = low + (high - low) * draws[:, 3]
    if pixels.device.type == "cpu":
        return _alter_picked(pixels / 255, config, draws, sigma).mul_(255)
    return _alter_all(pixels / 255, config, draws, sigma) * 255


def _alter_all(images: Tensor, config: ColourConfig, draws: Tensor, sigma: Tensor) -> Tensor:
    """Compute every change for every image, keep what was drawn: nothing waits for the host."""
    images = torch.where(_pick(draws[:, 0], config.jitter), _jitter(images, config, draws), images)
    if images.shape[1] == 3:
        grey = _greyscale(images).expand_as(images)
        images = torch.where(_pick(draws[:, 1], config.grey), grey, images)
    images = torch.where(_pick(draws[:, 2], config.blur), _blur(images, sigma), images)
    bright = images >= _SOLARISE_FROM
    solar = torch.where(bright, 1 - images, images)
    return torch.where(_pick(draws[:, 13], config.solarise), solar, images)


def _alter_picked(images: Tensor, config: ColourConfig, draws: Tensor, sigma: Tensor) -> Tensor:
    """The same in place, images of one order together; those a change was not drawn for rest."""
    order = draws[:, 9:13].argsort(dim=1)
    number = (order * torch.tensor([64, 16, 4, 1])).sum(dim=1)
    jittered = draws[:, 0] < config.jitter
    for one in set(number[jittered].tolist()):
        ids = (jittered & (number == one)).nonzero()[:, 0]
        images[ids] = _jitter_in_order(images[ids], config, draws[ids], order[ids[0]].tolist())
    if images.shape[1] == 3:
        ids = (draws[:, 1] < config.grey).nonzero()[:, 0]
        images[ids] = _greyscale(images[ids]).expand(-1, 3, -1, -1)
    ids = (draws[:, 2] < config.blur).nonzero()[:, 0]
    if len(ids):
        images[ids] = _blur_near(images[ids], sigma[ids])
    ids = (draws[:, 13] < config.solarise).nonzero()[:, 0]
    bright = images[ids]
    images[ids] = torch.where(bright >= _SOLARISE_FROM, 1 - bright, bright)
    return images


def _pick(draw: Tensor, probability: float) -> Tensor:
    return (draw < probability)[:, None, None, None]


def _greyscale(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = constant(_GREY, images.device).reshape(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _jitter_in_order(
    images: Tensor, config: ColourConfig, draws: Tensor, order: list[int]
) -> Tensor:
    """The four changes of `_jitter`, in the one order all these images share."""
    strength = torch.tensor([config.brightness, config.contrast, config.saturation])
    factors = (1 + strength * (2 * draws[:, 4:7] - 1))[..., None, None, None]  # (B, 3, 1, 1, 1)
    colourful = images.shape[1] == 3
    for change in order:
        if change == _HUE:
            if colourful and config.hue > 0:
                images = shift_hue(images, config.hue * (2 * draws[:, 7] - 1))
            continue
        factor = factors[:, change]
        if change == _BRIGHTNESS:
            images = (images * factor).clamp_(0, 1)
        elif change == _CONTRAST:
            level = _greyscale(images).mean(dim=(2, 3), keepdim=True)
            images = (images * factor).add_((1 - factor) * level).clamp_(0, 1)
        elif colourful:
            images = (images * factor).add_((1 - factor) * _greyscale(images)).clamp_(0, 1)
    return images


def _jitter(images: Tensor, config: ColourConfig, draws: Tensor) -> Tensor:
    """The four changes in a random order of each image's own; draws (B, >= 13)."""
    order = draws[:, 9:13].argsort(dim=1)  # (B, 4): which change comes first, second, ...
    strength = constant((config.brightness, config.contrast, config.saturation), images.device)
    factor = 1 + strength * (2 * draws[:, 4:7] - 1)  # (B, 3)
    hue_place = (order == _HUE).to(torch.int8).argmax(dim=1)  # (B,)
    colourful = images.shape[1] == 3
    for place in range(4):
        images = _linear_change(images, order[:, place], factor, place < hue_place)
    if colourful and config.hue > 0:
        images = shift_hue(images, config.hue * (2 * draws[:, 7] - 1))
    for place in range(4):
        images = _linear_change(images, order[:, place], factor, place > hue_place)
    return images


def _linear_change(images: Tensor, change: Tensor, factor: Tensor, active: Tensor) -> Tensor:
    """Brightness, contrast or saturation as `change` (B,) says, where `active` (B,)."""
    grey = _greyscale(images)
    amount = factor.gather(1, change.clamp_max(_SATURATION)[:, None])[:, 0]
    amount = torch.where(active & (change != _HUE), amount, torch.ones_like(amount))
    contrast = (change == _CONTRAST)[:, None, None, None]
    saturation = (change == _SATURATION)[:, None, None, None]
    reference = torch.where(contrast, grey.mean(dim=(2, 3), keepdim=True), torch.zeros_like(grey))
    reference = torch.where(saturation, grey, reference)
    amount = amount[:, None, None, None]
    if images.shape[1] != 3:
        amount = torch.where(saturation, torch.ones_like(amount), amount)
    return (images * amount + (1 - amount) * reference).clamp(0, 1)


def shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Rotate the hue of RGB images in [0, 1] by `shift` (B,) turns."""
    red, green, blue = images.unbind(dim=1)
    high, low = red.maximum(green).maximum(blue), red.minimum(green).minimum(blue)
    spread = high - low
    safe = spread.clamp_min(1e-8)
    hue = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * shift[:, None, None]  # sixths of a turn
    hue = hue - 6 * (hue / 6).floor()
    # Each channel follows the same trapezoid over the hue circle, a third of a turn apart.
    red, green, blue = (hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()
    channels = [torch.addcmul(low, spread, share.clamp_(0, 1)) for share in (red, green, blue)]
    return torch.stack(channels, dim=1)


def _blur_near(images: Tensor, sigma: Tensor) -> Tensor:
    """`_blur` by convolution: weights beyond six sigma are below what float32 tells apart."""
    count, channels, rows, cols = images.shape
    reach = int(6 * float(sigma.max())) + 1
    place = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(place**2) / (2 * sigma[:, None] ** 2))  # (B, K)
    kernels = kernel.repeat_interleave(channels, dim=0)[:, None, None]  # (B * C, 1, 1, K)
    groups = count * channels
    flat = images.reshape(1, groups, rows, cols)
    flat = functional.conv2d(flat, kernels, padding=(0, reach), groups=groups)
    flat = functional.conv2d(flat, kernels.mT, padding=(reach, 0), groups=groups)
    row_sums, col_sums = (_sums_inside(kernel, length) for length in (rows, cols))
    return flat.reshape(images.shape) / (row_sums[:, None, :, None] * col_sums[:, None, None])


def _sums_inside(kernel: Tensor, length: int) -> Tensor:
    """The sums of kernels (B, K) laid on each place of a line, without what sticks out: (B, L)."""
    line = torch.ones(1, len(kernel), length)
    reach = kernel.shape[1] // 2
    return functional.conv1d(line, kernel[:, None], padding=reach, groups=len(kernel))[0]


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with one sigma (B,) px an image; the kernel is cut off at the borders."""

    def matrix(length: int) -> Tensor:
        place = torch.arange(length, device=images.device, dtype=torch.float32)
        distance = (place[:, None] - place[None]) ** 2
        weight = torch.exp(-distance / (2 * sigma[:, None, None] ** 2))
        return weight / weight.sum(dim=-1, keepdim=True)  # (B, length, length)

    rows, cols = matrix(images.shape[2]), matrix(images.shape[3])
    return rows[:, None] @ images @ cols.transpose(1, 2)[:, None]
