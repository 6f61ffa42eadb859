"""DPT (2103.13413) around an encoder, from segmentation-models-pytorch, an optional package.

That library's own `DPT` builds its encoder itself, by a name of timm's. Here its decoder and head
stand on our encoder instead, of either family; with equal weights both give equal scores.
"""

import importlib.util
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from contramask.models.encoder import Size
from contramask.models.family import Encoder
from contramask.models.pyramid import even_taps, tap_tokens
from contramask.typed import STRICT

#: The module that must be installed, and the coarsest level's stride in pixels.
PACKAGE, COARSEST = "segmentation_models_pytorch", 32


@dataclass(frozen=True, config=STRICT)
class DPTConfig:
    """Sizes of DPT's decoder; the defaults suit images of 32 px, the library's stand in comments.

    `level_channels` are the widths of the four levels, finest first, before they are fused.
    """

    #: 0-based blocks whose tokens feed the levels; null = four evenly spaced (2, 5, 8, 11).
    taps: tuple[int, int, int, int] | None = None
    channels: int = Field(default=32, ge=8)  # 256
    level_channels: tuple[int, int, int, int] = (32, 32, 32, 32)  # 256, 512, 1024, 1024
    #: What becomes of the class token: beside every patch, added to it, or left out.
    readout: Literal["cat", "add", "ignore"] = "cat"


def check_installed(heads: tuple[str, ...]) -> tuple[str, ...]:
    """The heads as they are; raises `ValueError` for `dpt` without the package it comes from."""
    if "dpt" in heads and importlib.util.find_spec(PACKAGE) is None:
        raise ValueError(
            "the head dpt comes from segmentation-models-pytorch, which is not installed: "
            "uv sync --extra dpt, or leave dpt out"
        )
    return heads


def check_fits(patch_size: int, size: Size, key: str) -> None:
    """Raise `ValueError` where DPT's levels, each half of the one before it, would not meet.

    size: rows and columns of what the encoder reads; key: the setting they come from.
    """
    if patch_size & (patch_size - 1):
        raise ValueError(
            f"segmentation.heads: dpt needs patches whose side is a power of two, and this "
            f"encoder's have {patch_size} px; leave dpt out (upernet takes any patches)"
        )
    if size[0] % COARSEST or size[1] % COARSEST:
        raise ValueError(
            f"{key}: dpt reads sides that are multiples of {COARSEST} px, given {size[0]}x{size[1]}"
            " px; choose others, or set segmentation.crop to such a window"
        )


class DPT(nn.Module):
    """Encoder, four tapped levels at strides of 4 to 32 px, their fusion and a head."""

    def __init__(self, encoder: Encoder, num_classes: int, config: DPTConfig) -> None:
        # Here, not above: the package is optional and takes seconds to import.
        from segmentation_models_pytorch.base import initialization
        from segmentation_models_pytorch.decoders.dpt import decoder as parts

        super().__init__()
        self.encoder = encoder
        self.taps = config.taps or even_taps(len(encoder.blocks))
        self.decoder: nn.Module = parts.DPTDecoder(
            encoder_out_channels=[encoder.embed_dim] * len(self.taps),
            encoder_output_strides=[encoder.patch_size] * len(self.taps),
            encoder_has_prefix_tokens=True,
            readout=config.readout,
            intermediate_channels=config.level_channels,
            fusion_channels=config.channels,
        )
        self.head: nn.Module = parts.DPTSegmentationHead(config.channels, num_classes)
        initialization.initialize_decoder(self.decoder)
        initialization.initialize_head(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (B, K, H, W) of images (B, C, H, W)."""
        maps, classes = tap_tokens(self.encoder, images, self.taps)
        scores: Tensor = self.head(self.decoder(maps, classes))
        return scores
