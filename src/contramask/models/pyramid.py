"""Feature pyramids: a plain Vision Transformer has one resolution, dense heads want several."""

from collections.abc import Sequence
from math import ceil, log2
from typing import cast

from timm.layers import LayerNorm2d  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.models.family import Encoder


def even_taps(depth: int, count: int = 4) -> tuple[int, ...]:
    """0-based indices of `count` evenly spaced blocks, the last block among them.

    12 blocks give 2, 5, 8, 11. (BEiT's and MAE's ADE20K protocol taps 3, 5, 7, 11.) An encoder with
    fewer blocks than taps gives some of them twice.
    """
    return tuple(ceil((i + 1) * depth / count) - 1 for i in range(count))


def tap_maps(encoder: Encoder, images: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """Patch tokens after the given blocks as maps, each (B, D, rows, cols), before the final norm.

    Raises `ValueError` when a tap names a block the encoder does not have.
    """
    return tap_tokens(encoder, images, taps)[0]


def tap_tokens(
    encoder: Encoder, images: Tensor, taps: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """`tap_maps`, and the class tokens (B, 1, D) that belong to the maps."""
    depth = len(encoder.blocks)
    if not taps or not all(0 <= tap < depth for tap in taps):
        raise ValueError(f"taps {tuple(taps)} must be block numbers from 0 to {depth - 1}")
    distinct = sorted(set(taps))
    found = encoder.forward_intermediates(
        images,
        indices=distinct,
        return_prefix_tokens=True,
        norm=False,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    pairs = cast("list[tuple[Tensor, Tensor]]", found)  # timm's annotation covers all its modes
    chosen = [pairs[distinct.index(tap)] for tap in taps]
    return [maps for maps, _ in chosen], [tokens for _, tokens in chosen]


def _halve() -> nn.Module:
    """Halve a map by its maxima; an odd side is rounded up, so that a 1-row grid keeps its row."""
    return nn.MaxPool2d(2, stride=2, ceil_mode=True)


def _tap_rescale(scale: float, width: int) -> nn.Module:
    if scale == 4:
        return nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, stride=2),
        )
    if scale == 2:
        return nn.ConvTranspose2d(width, width, 2, stride=2)
    return nn.Identity() if scale == 1 else _halve()


class TapPyramid(nn.Module):
    """Four taps of one resolution become maps of x4, x2, x1 and x0.5, all as wide as the encoder.

    The pyramid of BEiT's and MAE's ADE20K protocol: transposed 2x2 convolutions upwards, with batch
    norm and GELU between two of them, and a max-pool downwards.
    """

    scales = (4.0, 2.0, 1.0, 0.5)

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_tap_rescale(scale, embed_dim) for scale in self.scales)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Rescale four maps (B, D, rows, cols); odd sides are rounded up in the last level."""
        return [level(tap) for level, tap in zip(self.levels, maps, strict=True)]


def _simple_rescale(scale: float, width: int) -> tuple[nn.Module, int]:
    """ViTDet's rescaling by a power of two, and the width after it: each doubling halves it."""
    if scale == 1:
        return nn.Identity(), width
    if scale == 0.5:
        return _halve(), width
    steps: list[nn.Module] = []
    for doubling in range(int(log2(scale))):
        if doubling:
            steps += [LayerNorm2d(width), nn.GELU()]
        steps.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        width //= 2
    return nn.Sequential(*steps), width


class SimplePyramid(nn.Module):
    """ViTDet's simple feature pyramid (2203.16527, section 3): all levels from the last map alone.

    Each scale gets a 1x1 and a 3x3 convolution to `out_channels`, both without bias and followed by
    LayerNorm2d; one more level halves the last by subsampling. Raises `ValueError` for a scale that
    is not 4, 2, 1 or 0.5, and for scales that do not fall.
    """

    def __init__(self, embed_dim: int, out_channels: int, scales: Sequence[float]) -> None:
        super().__init__()
        if not scales or any(s not in TapPyramid.scales for s in scales):
            raise ValueError(f"pyramid scales {tuple(scales)}: allowed are 4, 2, 1 and 0.5")
        if list(scales) != sorted(set(scales), reverse=True):
            raise ValueError(f"pyramid scales {tuple(scales)} must fall, each once")
        self.scales = (*scales, scales[-1] / 2)
        self.rescale = nn.ModuleList()
        self.project = nn.ModuleList()
        for scale in scales:
            rescale, width = _simple_rescale(scale, embed_dim)
            self.rescale.append(rescale)
            self.project.append(
                nn.Sequential(
                    nn.Conv2d(width, out_channels, 1, bias=False),
                    LayerNorm2d(out_channels),
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    LayerNorm2d(out_channels),
                )
            )

    def forward(self, tap: Tensor) -> dict[str, Tensor]:
        """Turn (B, D, rows, cols) into named levels, finest first, coarsest named `pool`."""
        levels = {
            f"x{scale:g}": project(rescale(tap))
            for scale, rescale, project in zip(
                self.scales[:-1], self.rescale, self.project, strict=True
            )
        }
        last = levels[f"x{self.scales[-2]:g}"]
        # Subsampling, written as a max-pool of one pixel, as in FPN and ViTDet (P6 from P5).
        return {**levels, "pool": F.max_pool2d(last, 1, stride=2)}
