"""The light transformer that reads visible tokens and fills in what was hidden."""

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from timm.layers.attention import Attention
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.masking import PatchMask, take_positions, take_tokens
from contramask.models.encoder import Size, mae_init, sincos_positions
from contramask.typed import STRICT


class ReadoutBlock(Block):
    """timm's block that can compute its last tokens only; the same parameters, the same values.

    Every token is still attended to; queries, projection and perceptron are left out for those
    that nobody reads.
    """

    attn: Attention

    def forward(self, states: Tensor, start: int = 0) -> Tensor:  # type: ignore[override]
        """Tokens from number `start` on, (B, N - start, D), of states (B, N, D)."""
        if not start:
            whole: Tensor = super().forward(states)
            return whole
        mixed = _attend(self.attn, self.norm1(states), start)
        asked: Tensor = states[:, start:] + self.drop_path1(self.ls1(mixed))
        made: Tensor = self.drop_path2(self.ls2(self.mlp(self.norm2(asked))))
        return asked + made


def _attend(attn: Attention, tokens: Tensor, start: int) -> Tensor:
    """Self-attention of tokens (B, N, D) for queries from `start` on: (B, N - start, D)."""
    width = tokens.shape[2]
    weight, bias = attn.qkv.weight, attn.qkv.bias
    shape = (len(tokens), -1, attn.num_heads, width // attn.num_heads)
    query = F.linear(tokens[:, start:], weight[:width], bias[:width]).view(shape).transpose(1, 2)
    both = F.linear(tokens, weight[width:], bias[width:]).view(*shape[:2], 2, *shape[2:])
    key, value = both.permute(2, 0, 3, 1, 4)  # (B, heads, N, head width)
    if attn.fused_attn:
        mixed = F.scaled_dot_product_attention(query, key, value)
    else:
        mixed = ((query * attn.scale) @ key.transpose(-2, -1)).softmax(dim=-1) @ value
    return attn.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


@dataclass(frozen=True, config=STRICT)
class DecoderConfig:
    """Width, depth and heads of a decoder; MAE's default is 512 wide and 8 deep."""

    embed_dim: int = Field(default=512, ge=8)
    depth: int = Field(default=8, ge=1)
    num_heads: int = Field(default=16, ge=1)
    mlp_ratio: float | None = Field(default=None, gt=0)  # None: the encoder's


class TokenDecoder(nn.Module):
    """MAE's decoder, 2111.06377 section 3 and its released code; CMAE uses it twice.

    Tokens stay in the order [class, visible, hidden]: attention does not care once positions are
    added, so nothing is un-shuffled during training. Outputs have `out_dim` values a patch.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        grid_size: Size,
        config: DecoderConfig,
        mlp_ratio: float = 4,
    ) -> None:
        super().__init__()
        width = config.embed_dim
        if width % config.num_heads:
            raise ValueError(
                f"decoder width {width} is not divisible by {config.num_heads} heads; change "
                "decoder.embed_dim or decoder.num_heads"
            )
        self.embed = nn.Linear(in_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(sincos_positions(width, grid_size), requires_grad=False)
        self.blocks = nn.Sequential(
            *(
                kind(
                    width,
                    config.num_heads,
                    config.mlp_ratio or mlp_ratio,
                    qkv_bias=True,
                    norm_layer=LayerNorm,
                )
                for kind in [Block] * (config.depth - 1) + [ReadoutBlock]
            )
        )
        self.norm = LayerNorm(width, eps=1e-6)
        self.pred = nn.Linear(width, out_dim)
        mae_init(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, mask: PatchMask) -> Tensor:
        """Decode encoder tokens (B, 1+V, D) to normed states (B, 1+L, width), hidden ones last."""
        return self.norm(self.blocks(self._placed(tokens, mask)))  # type: ignore[no-any-return]

    def _placed(self, tokens: Tensor, mask: PatchMask) -> Tensor:
        """What the first block reads, (B, 1+L, width): class, visible, then hidden tokens."""
        seen = self.embed(tokens)
        positions = self.pos_embed[:, 1:]
        hidden = self.mask_token.to(seen.dtype) + take_positions(positions, mask.ids_hide)
        visible = seen[:, 1:] + take_positions(positions, mask.ids_keep)
        return torch.cat([seen[:, :1] + self.pos_embed[:, :1], visible, hidden], dim=1)

    def hidden(self, tokens: Tensor, mask: PatchMask) -> Tensor:
        """The hidden patches' normed states (B, L-V, width), in the order of `mask.ids_hide`.

        The last block is not computed for other tokens.
        """
        states = self._placed(tokens, mask)
        *first, last = self.blocks
        for block in first:
            states = block(states)
        return self.norm(last(states, tokens.shape[1]))  # type: ignore[no-any-return]

    def complete(self, tokens: Tensor) -> Tensor:
        """As `forward` where nothing was dropped: (B, 1+L, D) in reading order to (B, 1+L, width).

        The mask token is not used.
        """
        return self.norm(self.blocks(self.embed(tokens) + self.pos_embed))  # type: ignore[no-any-return]

    def predict_hidden(self, tokens: Tensor, mask: PatchMask) -> Tensor:
        """Outputs for the hidden patches, (B, L-V, out_dim), in the order of `mask.ids_hide`."""
        return self.pred(self.hidden(tokens, mask))  # type: ignore[no-any-return]

    def predict_mean(self, tokens: Tensor, mask: PatchMask) -> Tensor:
        """The mean output over all patches, (B, out_dim); the last layer being linear."""
        return self.pred(self(tokens, mask)[:, 1:].mean(dim=1))  # type: ignore[no-any-return]

    def predict_all(self, tokens: Tensor, mask: PatchMask) -> Tensor:
        """Outputs for every patch in reading order, (B, L, out_dim): for pictures and checks."""
        shuffled = self.pred(self(tokens, mask)[:, 1:])
        place = torch.cat([mask.ids_keep, mask.ids_hide], dim=1).argsort(dim=1)
        return take_tokens(shuffled, place)
