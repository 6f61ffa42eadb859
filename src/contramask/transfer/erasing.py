"""Random erasing (1708.04896) by image key: as timm draws it, but the same wherever one goes on."""

import math

import torch
from torch import Tensor

from contramask.draws import uniform

_STREAM = 160  # of random numbers
_AREA = (0.02, 1 / 3)  # of the image
_ASPECT = (math.log(0.3), math.log(1 / 0.3))
_ATTEMPTS = 10


class RandomErasing:
    """Paints a rectangle of normal noise into a share of the images, timm's mode `pixel`.

    Noise comes from a table twice as large as an image, read from a place drawn for each image.
    size: rows, columns. Nothing waits for the device.
    """

    def __init__(
        self, probability: float, channels: int, size: tuple[int, int], device: torch.device
    ) -> None:
        self.probability, self.size = probability, size
        source = torch.Generator().manual_seed(_STREAM)
        noise = torch.randn(channels, 2 * size[0], 2 * size[1], generator=source)
        self.noise = noise.to(device)

    def __call__(self, images: Tensor, key: Tensor) -> Tensor:
        """Normalised images (B, C, H, W), keys (B,) from `draws.image_keys`: the same, erased."""
        if not self.probability:
            return images
        inside, shift = self._places(key)
        row, col = (torch.arange(side, device=images.device) for side in self.size)
        rows, cols = shift[:, 0, None] + row, shift[:, 1, None] + col  # (B, H), (B, W)
        noise = self.noise[:, rows[:, :, None], cols[:, None, :]].transpose(0, 1)
        return torch.where(inside[:, None], noise.to(images.dtype), images)

    def _places(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """What is erased (B, H, W) bool, and where each image's noise begins (B, 2)."""
        height, width = self.size
        draws = uniform(key, _STREAM, 2 * _ATTEMPTS + 5)
        area = height * width * (_AREA[0] + (_AREA[1] - _AREA[0]) * draws[:, :_ATTEMPTS])
        aspect = _ASPECT[0] + (_ASPECT[1] - _ASPECT[0]) * draws[:, _ATTEMPTS : 2 * _ATTEMPTS]
        high = (area * aspect.exp()).sqrt().round()  # (B, attempts)
        wide = (area / aspect.exp()).sqrt().round()
        fits = (high < height) & (wide < width)
        first = fits.int().argmax(dim=1, keepdim=True)  # the first attempt that fits
        high, wide = high.gather(1, first), wide.gather(1, first)
        chance, down, right, *start = draws[:, 2 * _ATTEMPTS :, None].unbind(dim=1)
        top = (down * (height - high + 1)).floor()
        left = (right * (width - wide + 1)).floor()
        row = torch.arange(height, device=key.device)
        col = torch.arange(width, device=key.device)
        in_rows = (row >= top) & (row < top + high)
        in_cols = (col >= left) & (col < left + wide)
        chosen = (chance < self.probability) & fits.any(dim=1, keepdim=True)
        inside = in_rows[:, :, None] & in_cols[:, None, :] & chosen[:, :, None]
        shift = torch.cat([start[0] * height, start[1] * width], dim=1).long()
        return inside, shift
