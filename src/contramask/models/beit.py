"""BEiT's Vision Transformer: where a patch stands enters only as a bias of the attention.

Bao et al., 2106.08254; timm's own module, given the interface of `models.encoder.VisionEncoder`.
The bias depends on the offset between two patches, not on their places, so nothing in a token says
where in the image it stands. ConMIM needs that: with absolute positions its question "which of the
L places is this?" is answered by the position embedding instead of the content.
"""

import warnings
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from timm.models.beit import Beit
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.masking import take_positions, take_tokens
from contramask.models.encoder import EncoderConfig, Size, check_sizes, patchify
from contramask.typed import STRICT

_TABLE = "relative_position_bias_table"


@dataclass(frozen=True, config=STRICT)
class BeitConfig:
    """What BEiT's encoder has beside the sizes of `EncoderConfig`; ConMIM's values for ViT-S and B.

    `per_block` biases are for fine-tuning, see `BeitEncoder.unshared`.
    """

    layer_scale: float = Field(default=0.1, gt=0)  # 1e-5 for ViT-L
    position_bias: Literal["shared", "per_block"] = "shared"
    absolute_positions: bool = False


def beit_init(module: nn.Module, std: float = 0.02) -> None:
    """ConMIM's initialisation: normal weights cut off at one `std`, zero biases, unit norms."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(part.weight, std=std, a=-std, b=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


class BeitEncoder(Beit):
    """timm's Beit without a head; its state dict loads strictly in timm.

    A mask token is no part of it: whoever masks brings one.
    """

    def __init__(
        self, image_size: Size, in_chans: int, config: EncoderConfig, beit: BeitConfig
    ) -> None:
        width, depth, heads = config.sizes
        shared = beit.position_bias == "shared"
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
            init_values=beit.layer_scale,
            use_abs_pos_emb=beit.absolute_positions,
            use_rel_pos_bias=not shared,
            use_shared_rel_pos_bias=shared,
        )
        self.config = config
        self.beit = beit
        self.image_size = image_size
        self.patch_size = config.patch_size
        self.grid_size: Size = self.patch_embed.grid_size
        # timm cuts the normal off at 2, not 0.02, and leaves the patch projection to PyTorch.
        beit_init(self)
        self.fix_init_weight()  # residual branches of block l by 1/sqrt(2 l), as timm had done

    @property
    def num_patches(self) -> int:
        """L, the number of patches of one image."""
        return self.grid_size[0] * self.grid_size[1]

    def embed(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embed (B, C, H, W), or only its patches `ids_keep` (B, V): (B, 1+V, D).

        Raises `ValueError` for images of another size than the encoder's.
        """
        return self._with_class(self._project(images, ids_keep), ids_keep)

    def embed_masked(self, images: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
        """Embed (B, C, H, W) with `mask_token` (1, 1, D) wherever `mask` (B, L): (B, 1+L, D)."""
        return self._with_class(torch.where(mask[..., None], mask_token, self._project(images)))

    def run_blocks(self, tokens: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Embedded tokens (B, 1+V, D) through all blocks; `ids_keep` says which patches they are.

        Raises `ValueError` for some of the patches where each block has a bias table of its own.
        """
        bias = self._bias(ids_keep)
        for block in self.blocks:
            tokens = block(tokens, shared_rel_pos_bias=bias)
        return tokens

    def tokens(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Tokens after the last block and before the final norm, (B, 1+V, D), class token first."""
        return self.run_blocks(self.embed(images, ids_keep), ids_keep)

    def forward_tokens(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Tokens after the final norm, (B, 1+V, D), class token first."""
        return self.norm(self.tokens(images, ids_keep))  # type: ignore[no-any-return]

    def forward_masked(self, images: Tensor, mask: Tensor, mask_token: Tensor) -> Tensor:
        """`forward_tokens` of all patches, those under `mask` (B, L) replaced by `mask_token`."""
        tokens = self.run_blocks(self.embed_masked(images, mask, mask_token))
        return self.norm(tokens)  # type: ignore[no-any-return]

    def resized(self, image_size: Size) -> "BeitEncoder":
        """A copy for another image size (rows, columns); what knows positions is resampled.

        Bias tables by timm's interpolation on a geometric grid, which keeps near offsets exact.
        """
        copy = BeitEncoder(image_size, self.in_chans, self.config, self.beit)
        state = self.state_dict()
        old, new = self.grid_size, copy.grid_size
        for name, value in state.items():
            if name.endswith(_TABLE):
                state[name] = _resampled(value, old, new)
            elif name == "pos_embed":
                state[name] = resample_abs_pos_embed(value, new_size=list(new), old_size=list(old))
        copy.load_state_dict(state)
        return copy

    def unshared(self) -> "BeitEncoder":
        """A copy whose blocks each own a copy of the shared bias, as BEiT starts fine-tuning."""
        beit = replace(self.beit, position_bias="per_block")
        copy = BeitEncoder(self.image_size, self.in_chans, self.config, beit)
        state = self.state_dict()
        shared = state.pop(f"rel_pos_bias.{_TABLE}", None)
        if shared is not None:
            state |= {f"blocks.{i}.attn.{_TABLE}": shared for i in range(len(self.blocks))}
        copy.load_state_dict(state)
        return copy

    def _project(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
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

    def _with_class(self, patches: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """Class token and, if there are any, absolute positions; float32 also under autocast."""
        count = len(patches)
        tokens = torch.cat([self.cls_token.expand(count, -1, -1), patches], dim=1)
        if self.pos_embed is None:
            return tokens
        if ids_keep is None:
            return tokens + self.pos_embed
        return tokens + take_positions(self.pos_embed, _ids(ids_keep))

    def _bias(self, ids_keep: Tensor | None) -> Tensor | None:
        """The shared bias: (heads, 1+L, 1+L), or (B, heads, 1+V, 1+V) for some of the patches."""
        if self.rel_pos_bias is None:
            if ids_keep is not None:
                raise ValueError(
                    "an encoder with position_bias=per_block reads whole images only; use "
                    "position_bias=shared to read visible patches"
                )
            return None
        bias: Tensor = self.rel_pos_bias()
        if ids_keep is None:
            return bias
        ids = _ids(ids_keep)
        return bias[:, ids[:, :, None], ids[:, None, :]].transpose(0, 1)


def _ids(ids_keep: Tensor) -> Tensor:
    """Numbers of the class token and the patches `ids_keep` (B, V) among all tokens, (B, 1+V)."""
    return F.pad(ids_keep + 1, (1, 0))


def _resampled(table: Tensor, old: Size, new: Size) -> Tensor:
    """A bias table (offsets, heads) of one grid for another; the three class rows stay."""
    offsets = (2 * new[0] - 1) * (2 * new[1] - 1) + 3
    with warnings.catch_warnings():  # about how timm indexes, nothing to do with the values
        warnings.simplefilter("ignore", UserWarning)
        resized: Tensor = resize_rel_pos_bias_table(table, new, (offsets, table.shape[1]), old)
    return resized


def build_beit(
    config: EncoderConfig, beit: BeitConfig, image_size: Size, in_chans: int
) -> BeitEncoder:
    """Build a freshly initialised encoder; raises `ValueError` if the sizes do not fit together."""
    check_sizes(config, image_size)
    return BeitEncoder(image_size, in_chans, config, beit)
