"""The Vision Transformer encoder: timm's own, able to read only the patches that stay visible."""

from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.masking import take_positions, take_tokens
from contramask.typed import STRICT

Size = tuple[int, int]
Sizes = tuple[int, int, int]

#: arch -> (embed_dim, depth, num_heads). All but `vit_nano` (the demo's) are timm's of that name.
ARCHITECTURES = {
    "vit_nano": (128, 6, 4),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}


@dataclass(frozen=True, config=STRICT)
class EncoderConfig:
    """Which Vision Transformer to train; image size and channels come from the data."""

    arch: Literal["vit_nano", "vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"] = (
        "vit_nano"
    )
    patch_size: int = Field(default=4, ge=2, le=64)
    embed_dim: int | None = Field(default=None, ge=16)  # None: as the architecture says
    depth: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)

    @property
    def sizes(self) -> Sizes:
        """embed_dim, depth and num_heads: the architecture's, unless they are given."""
        width, depth, heads = ARCHITECTURES[self.arch]
        return self.embed_dim or width, self.depth or depth, self.num_heads or heads


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut (B, C, H, W) into (B, L, p*p*C), patches row by row, each as (row, column, channel).

    The order of 2111.06377's released code. Raises `ValueError` if a side is no multiple of p.
    """
    b, c, h, w = images.shape
    if h % patch_size or w % patch_size:
        raise ValueError(
            f"an image of {h}x{w} px cannot be cut into patches of {patch_size} px; "
            "choose sides that are multiples of the patch size"
        )
    rows, cols = h // patch_size, w // patch_size
    grid = images.reshape(b, c, rows, patch_size, cols, patch_size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, rows * cols, patch_size**2 * c)


def unpatchify(patches: Tensor, grid_size: Size, patch_size: int) -> Tensor:
    """The exact inverse of `patchify`: (B, L, p*p*C) to (B, C, H, W)."""
    (rows, cols), p = grid_size, patch_size
    grid = patches.reshape(patches.shape[0], rows, cols, p, p, -1)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, rows * p, cols * p)


def sincos_positions(embed_dim: int, grid_size: Size) -> Tensor:
    """Fixed 2-D sine-cosine positions, (1, 1+L, D), zero for the class token (2111.06377's code).

    The first half of the width encodes the column, the second the row; each half is
    [sin(p w_k), cos(p w_k)] with w_k = 10000^(-k/(D/4)). Raises `ValueError` unless 4 divides D.
    """
    if embed_dim % 4:
        raise ValueError(f"sine-cosine positions need a width divisible by 4, not {embed_dim}")
    rows, cols = grid_size
    frequency = 10000.0 ** (-torch.arange(embed_dim // 4, dtype=torch.float64) / (embed_dim / 4))
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    halves = []
    for place in (col, row):
        angle = place.reshape(-1, 1).to(torch.float64) * frequency
        halves += [angle.sin(), angle.cos()]
    table = torch.cat(halves, dim=1)  # (L, D)
    return torch.cat([torch.zeros(1, embed_dim), table.to(torch.float32)])[None]


def mae_init(module: nn.Module) -> None:
    """MAE's initialisation: Xavier-uniform linear layers with zero bias, unit norms."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


class VisionEncoder(VisionTransformer):
    """timm's VisionTransformer without a head; its state dict loads strictly in timm.

    Position embeddings are fixed sine-cosine values, as in MAE and CMAE; fine-tuning frees them.
    """

    pos_embed: nn.Parameter  # timm's may be None, ours are not
    cls_token: nn.Parameter

    def __init__(self, image_size: Size, in_chans: int, config: EncoderConfig) -> None:
        width, depth, heads = config.sizes
        super().__init__(
            img_size=image_size,
            patch_size=config.patch_size,
            in_chans=in_chans,
            num_classes=0,
            global_pool="",
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=config.mlp_ratio,
        )
        self.config = config
        self.image_size = image_size
        self.patch_size = config.patch_size
        self.grid_size: Size = self.patch_embed.grid_size
        self.pos_embed.data.copy_(sincos_positions(self.embed_dim, self.grid_size))
        self.pos_embed.requires_grad_(False)
        mae_init(self)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.zeros_(self.patch_embed.proj.bias)
        nn.init.normal_(self.cls_token, std=0.02)

    @property
    def num_patches(self) -> int:
        """L, the number of patches of one image."""
        return self.grid_size[0] * self.grid_size[1]

    def project(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Patches of (B, C, H, W), or only `ids_keep` (B, V), as tokens without positions.

        Hidden patches are dropped before the projection: a quarter of the work, the same result.
        Raises `ValueError` for images of another size than the encoder's.
        """
        if images.shape[2:] != self.image_size:
            raise ValueError(
                f"the encoder reads images of {self.image_size} (rows, columns), not "
                f"{tuple(images.shape[2:])}; `resized` gives a copy for other sizes"
            )
        patches = patchify(images, self.patch_size)
        if ids_keep is not None:
            patches = take_tokens(patches, ids_keep)
        weight = self.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)  # (D, p*p*C)
        return F.linear(patches, weight, self.patch_embed.proj.bias)

    def positions(self, ids_keep: Tensor | None = None) -> Tensor:
        """Position embeddings of all patches (1, L, D), or of `ids_keep` (B, V): (B, V, D)."""
        table = self.pos_embed[:, 1:]
        return table if ids_keep is None else take_positions(table, ids_keep)

    def embed(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed (B, C, H, W), or only its patches `ids_keep` (B, V): (B, 1+V, D) with positions.

        Raises `ValueError` for images of another size than the encoder's.
        """
        tokens = self.project(images, ids_keep) + self.positions(ids_keep)
        cls = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([cls.expand(len(images), -1, -1).to(tokens.dtype), tokens], dim=1)

    def tokens(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Tokens after the last block and before the final norm, (B, 1+V, D), class token first."""
        return self.blocks(self.embed(images, ids_keep))  # type: ignore[no-any-return]

    def forward_tokens(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Tokens after the final norm, (B, 1+V, D), class token first."""
        return self.norm(self.tokens(images, ids_keep))  # type: ignore[no-any-return]

    def resized(self, image_size: Size) -> "VisionEncoder":
        """A copy for another image size (rows, columns); position embeddings are resampled."""
        copy = VisionEncoder(image_size, self.in_chans, self.config)
        state = self.state_dict()
        state["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"], new_size=list(copy.grid_size), old_size=list(self.grid_size)
        )
        copy.load_state_dict(state)
        return copy


def check_sizes(config: EncoderConfig, image_size: Size) -> None:
    """Raise `ValueError` if image, patches, width and heads do not fit together."""
    rows, cols = image_size
    if rows % config.patch_size or cols % config.patch_size:
        raise ValueError(
            f"images of {rows}x{cols} px cannot be cut into patches of {config.patch_size} px; set "
            "pretrain.encoder.patch_size to a divisor, or dataset.image_size to a multiple"
        )
    width, _, heads = config.sizes
    if width % heads:
        raise ValueError(
            f"an encoder {width} wide cannot be split into {heads} heads; change "
            "pretrain.encoder.embed_dim or pretrain.encoder.num_heads"
        )


def build_encoder(config: EncoderConfig, image_size: Size, in_chans: int) -> VisionEncoder:
    """Build a freshly initialised encoder; raises `ValueError` if the sizes do not fit together."""
    check_sizes(config, image_size)
    return VisionEncoder(image_size, in_chans, config)
