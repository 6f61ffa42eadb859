"""Segmentation heads: from patch maps to one score per class and pixel; UPerNet around them."""

from collections.abc import Sequence

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.models.family import Encoder
from contramask.models.pyramid import TapPyramid, even_taps, tap_maps
from contramask.typed import STRICT

#: Cells per side into which the coarsest map is averaged (PSPNet, 1612.01105; kept by UPerNet).
POOL_SCALES = (1, 2, 3, 6)


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """A convolution that keeps the map's size, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def resize_like(maps: Tensor, reference: Tensor) -> Tensor:
    """Bilinear resize of (B, C, h, w) to the rows and columns of `reference`."""
    size = reference.shape[-2:]
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _classifier(channels: int, num_classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class LinearSegmentationHead(nn.Module):
    """Batch norm and a 1x1 convolution: the dense linear probe of DINOv2 and DINOv3."""

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(embed_dim)
        self.classify = _classifier(embed_dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Score (B, D, rows, cols) features: (B, K, rows, cols)."""
        return self.classify(self.norm(features))  # type: ignore[no-any-return]


class PyramidPooling(nn.Module):
    """Averages of the whole map at several scales, beside the map itself (1612.01105)."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(conv_bn_relu(in_channels, channels, 1) for _ in POOL_SCALES)
        self.fuse = conv_bn_relu(in_channels + len(POOL_SCALES) * channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Pool (B, D, h, w) into (B, channels, h, w)."""
        parts = [features]
        for scale, pool in zip(POOL_SCALES, self.pools, strict=True):
            parts.append(resize_like(pool(F.adaptive_avg_pool2d(features, scale)), features))
        return self.fuse(torch.cat(parts, dim=1))  # type: ignore[no-any-return]


class UPerHead(nn.Module):
    """UPerNet's head (1807.10221): pyramid pooling on top, a top-down path, all levels fused.

    Expects four levels of equal width, finest first. Training needs two images a batch: batch norm
    follows a 1x1 pool.
    """

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.pooling = PyramidPooling(in_channels, channels)
        self.laterals = nn.ModuleList(conv_bn_relu(in_channels, channels, 1) for _ in range(3))
        self.smooth = nn.ModuleList(conv_bn_relu(channels, channels, 3) for _ in range(3))
        self.fuse = conv_bn_relu(4 * channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = _classifier(channels, num_classes)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Score four levels (B, D, h_i, w_i), finest first: (B, K, h_0, w_0)."""
        merged = [lateral(x) for lateral, x in zip(self.laterals, levels[:3], strict=True)]
        merged.append(self.pooling(levels[3]))
        for i in (2, 1, 0):  # top-down: each level takes what the coarser one knows
            merged[i] = merged[i] + resize_like(merged[i + 1], merged[i])
        smooth = [conv(x) for conv, x in zip(self.smooth, merged[:3], strict=True)]
        maps = [resize_like(x, smooth[0]) for x in (*smooth, merged[3])]
        return self.classify(self.dropout(self.fuse(torch.cat(maps, dim=1))))  # type: ignore[no-any-return]


class FCNHead(nn.Module):
    """The auxiliary head on the x1 level: one 3x3 convolution and a classifier (1411.4038)."""

    def __init__(
        self, in_channels: int, channels: int, num_classes: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.conv = conv_bn_relu(in_channels, channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classify = _classifier(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Score (B, D, h, w): (B, K, h, w)."""
        return self.classify(self.dropout(self.conv(features)))  # type: ignore[no-any-return]


@dataclass(frozen=True, config=STRICT)
class UPerNetConfig:
    """Sizes of UPerNet on a plain encoder. The ADE20K protocol's own values stand in comments."""

    #: 0-based blocks whose patch maps feed the pyramid; null = four evenly spaced (3, 5, 7, 11).
    taps: tuple[int, int, int, int] | None = None
    channels: int = Field(default=32, ge=8)  # embed_dim of the encoder
    aux_channels: int = Field(default=32, ge=8)  # 256
    aux_weight: float = Field(default=0.4, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class UPerNet(nn.Module):
    """Encoder, tapped pyramid and UPerHead, with an auxiliary FCN head on the x1 level."""

    def __init__(self, encoder: Encoder, num_classes: int, config: UPerNetConfig) -> None:
        super().__init__()
        width = encoder.embed_dim
        self.encoder = encoder
        self.taps = config.taps or even_taps(len(encoder.blocks))
        self.pyramid = TapPyramid(width)
        self.head = UPerHead(width, config.channels, num_classes, config.dropout)
        self.aux = FCNHead(width, config.aux_channels, num_classes, config.dropout)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of (B, C, H, W): main (B, K, 4 rows, 4 cols) and auxiliary (B, K, rows, cols)."""
        levels = self.pyramid(tap_maps(self.encoder, images, self.taps))
        return self.head(levels), self.aux(levels[2])
