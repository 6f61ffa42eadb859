"""Image tokens: a small convolutional network with a codebook names the content of each patch.

One token stands for one patch of the encoder, whatever the grid, the patch size and the channels,
so predicting the tokens of hidden patches can replace predicting their pixels. Unlike VQGAN's,
whose encoder costs several times the Vision Transformer it serves, this one is a few percent of a
training step; it has no attention, no perceptual and no adversarial loss.

Norms act at each place alone, halvings join two by two places, and the blocks on the token grid are
pointwise: a group norm would mix the whole image into every token, and 3x3 kernels of stride 2 look
further up and left than down and right. So a token depends on its patch and the nearest ones.
"""

from typing import Annotated

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.models.codebook import Codebook, CodebookConfig
from contramask.models.encoder import Size
from contramask.typed import STRICT

Width = Annotated[int, Field(ge=4)]


@dataclass(frozen=True, config=STRICT)
class TokenizerNetConfig:
    """Channels from the finest stage on, and residual blocks a stage; the last width repeats."""

    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (64, 128, 192, 256)
    depth: int = Field(default=1, ge=1)


def stride_of(patch_size: int) -> int:
    """Side in pixels that one token reads: the patch size, rounded up to a power of two."""
    return max(2, 1 << (patch_size - 1).bit_length())


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a skip connection; (B, C, H, W) to (B, D, H, W)."""

    def __init__(self, in_dim: int, out_dim: int, kernel: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm2d(in_dim), LayerNorm2d(out_dim)
        self.conv1 = nn.Conv2d(in_dim, out_dim, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(out_dim, out_dim, kernel, padding=kernel // 2)
        self.skip = nn.Identity() if in_dim == out_dim else nn.Conv2d(in_dim, out_dim, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """The maps plus what the two convolutions add."""
        added = self.conv1(F.silu(self.norm1(maps)))
        added = self.conv2(F.silu(self.norm2(added)))
        return self.skip(maps) + added  # type: ignore[no-any-return]


class VQTokenizer(nn.Module):
    """Images to tokens and back; `stride` pixels a token, images of other scale are resized.

    Trained by `train.tokenizer`, frozen afterwards.
    """

    def __init__(
        self,
        patch_size: int,
        in_chans: int,
        vocab_size: int,
        net: TokenizerNetConfig,
        codebook: CodebookConfig,
    ) -> None:
        super().__init__()
        self.patch_size, self.in_chans, self.vocab_size = patch_size, in_chans, vocab_size
        self.net = net
        self.stride = stride_of(patch_size)
        halvings = self.stride.bit_length() - 2  # the first halving is the pixel shuffle
        widths = [net.widths[min(i, len(net.widths) - 1)] for i in range(halvings + 1)]
        self.pixel_encoder = _encoder(in_chans, widths, net.depth, codebook.dim)
        self.pixel_decoder = _decoder(in_chans, widths, net.depth, codebook.dim)
        self.codebook = Codebook(vocab_size, codebook)

    def grid_of(self, images: Tensor) -> Size:
        """Rows and columns of tokens; raises `ValueError` unless patches cover the image."""
        rows, cols = images.shape[2] // self.patch_size, images.shape[3] // self.patch_size
        if (rows * self.patch_size, cols * self.patch_size) != tuple(images.shape[2:]):
            raise ValueError(
                f"an image of {images.shape[2]}x{images.shape[3]} px cannot be cut into tokens of "
                f"{self.patch_size} px; choose sides that are multiples of the patch size"
            )
        return rows, cols

    def scaled(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as the network reads them: [-1, 1], stride px a token."""
        if self.stride != self.patch_size:
            rows, cols = self.grid_of(images)
            size = (rows * self.stride, cols * self.stride)
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        return images * 2 - 1

    def features(self, pixels: Tensor) -> Tensor:
        """Vectors (B, L, d) of scaled pixels, before quantisation, where codes live."""
        maps = self.pixel_encoder(pixels)  # (B, d, rows, cols)
        return self.codebook.project(maps.flatten(2).transpose(1, 2))

    def pixels(self, vectors: Tensor, grid: Size) -> Tensor:
        """Scaled pixels (B, C, rows * stride, cols * stride) from quantised vectors (B, L, d)."""
        maps = vectors.transpose(1, 2).reshape(len(vectors), -1, *grid)
        return self.pixel_decoder(maps)  # type: ignore[no-any-return]

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens (B, L) int64 of images (B, C, H, W) in [0, 1], row by row, always in float32.

        Raises `ValueError` where `grid_of` does, or for another number of channels.
        """
        if images.shape[1] != self.in_chans:
            raise ValueError(
                f"the tokenizer reads {self.in_chans} channels and was given {images.shape[1]}"
            )
        self.grid_of(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.codebook.nearest(self.features(self.scaled(images.float())))

    @torch.no_grad()
    def decode(self, ids: Tensor, grid: Size) -> Tensor:
        """Images (B, C, H, W) in [0, 1] from tokens (B, L) on a grid of (rows, columns)."""
        with torch.autocast(ids.device.type, enabled=False):
            images = (self.pixels(self.codebook.codes[ids], grid) + 1) / 2
            if self.stride != self.patch_size:
                size = (grid[0] * self.patch_size, grid[1] * self.patch_size)
                images = F.interpolate(images, size, mode="bicubic", antialias=True)
        return images.clamp(0, 1)


def _encoder(in_chans: int, widths: list[int], depth: int, out_dim: int) -> nn.Sequential:
    """Half resolution by a pixel shuffle, one more halving between stages, then the token grid."""
    parts: list[nn.Module] = [
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * in_chans, widths[0], 3, padding=1),
    ]
    for i, width in enumerate(widths):
        last = i == len(widths) - 1
        count, kernel = (depth + 1, 1) if last else (depth, 3)
        parts += [ResidualBlock(width, width, kernel) for _ in range(count)]
        if not last:
            parts.append(nn.Conv2d(width, widths[i + 1], 2, stride=2))
    return nn.Sequential(*parts, LayerNorm2d(widths[-1]), nn.SiLU(), nn.Conv2d(width, out_dim, 1))


def _decoder(in_chans: int, widths: list[int], depth: int, in_dim: int) -> nn.Sequential:
    """The encoder's mirror image, with 3x3 kernels throughout."""
    parts: list[nn.Module] = [nn.Conv2d(in_dim, widths[-1], 1)]
    for i in reversed(range(len(widths))):
        count = depth + 1 if i == len(widths) - 1 else depth
        parts += [ResidualBlock(widths[i], widths[i], 3) for _ in range(count)]
        if i:
            parts += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(widths[i], widths[i - 1], 3, padding=1),
            ]
    to_pixels = nn.Conv2d(widths[0], 4 * in_chans, 3, padding=1)
    return nn.Sequential(*parts, LayerNorm2d(widths[0]), nn.SiLU(), to_pixels, nn.PixelShuffle(2))
