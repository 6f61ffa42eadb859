"""What heat maps are made of: tokens, keys and attention read from inside an encoder's blocks.

The blocks run as they are; queries and keys are computed once more beside them, and only where they
are asked for, so reading costs a small share of the forward itself. timm's two kinds of blocks
(ViT with absolute positions, BEiT with a bias of the attention) differ in how queries and keys get
their bias, and in nothing else that matters here.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contramask.models.beit import BeitEncoder
from contramask.models.family import Encoder


@dataclass(frozen=True)
class Taps:
    """What came out of one block; float32. The class token comes first wherever it is included.

    normed: as `tokens`, after the encoder's final norm; keys: all heads side by side, without the
    class token; class_attention: the class token's attention to the patches, each head's own;
    attention: the mean over the heads, of this and every earlier block.
    """

    tokens: Tensor  # (B, 1+L, D), the residual stream
    normed: Tensor  # (B, 1+L, D)
    keys: Tensor  # (B, L, D)
    class_attention: Tensor  # (B, heads, L)
    attention: tuple[Tensor, ...]  # one (B, 1+L, 1+L) a block; empty unless asked for


def read_taps(
    encoder: Encoder, view: Tensor, blocks: Collection[int], all_attention: bool
) -> dict[int, Taps]:
    """Run normalised images (B, C, H, W), all patches visible, and read the named blocks.

    Blocks count from 1; block number `depth` is the last. `all_attention` also keeps the attention
    of every block up to the last one named.
    """
    check_blocks(encoder, blocks)
    tokens = encoder.embed(view)
    shared = shared_bias(encoder)
    attention: list[Tensor] = []
    found = {}
    block: Any  # timm's, of either family
    for number, block in enumerate(encoder.blocks[: max(blocks)], 1):
        tapped = number in blocks
        if tapped or all_attention:
            queries, keys = queries_and_keys(block.attn, block.norm1(tokens))
            weights = attention_weights(block.attn, queries, keys, shared)
            if all_attention:
                attention.append(weights.mean(dim=1))
        is_beit = isinstance(encoder, BeitEncoder)
        tokens = block(tokens, shared_rel_pos_bias=shared) if is_beit else block(tokens)
        if tapped:
            found[number] = Taps(
                tokens=tokens.float(),
                normed=encoder.norm(tokens).float(),
                keys=keys.transpose(1, 2).flatten(2)[:, 1:].float(),
                class_attention=weights[:, :, 0, 1:],
                attention=tuple(attention),
            )
    return found


def check_blocks(encoder: Encoder, blocks: Collection[int]) -> None:
    """Raise `ValueError` unless every number is that of one of the encoder's blocks."""
    depth = len(encoder.blocks)
    wrong = sorted(number for number in blocks if not 1 <= number <= depth)
    if wrong or not blocks:
        raise ValueError(f"the encoder has blocks 1 to {depth}, not {wrong}; {depth} is the last")


def shared_bias(encoder: Encoder) -> Tensor | None:
    """The attention bias all blocks share, (heads, 1+L, 1+L); None where there is none."""
    bias = encoder.rel_pos_bias if isinstance(encoder, BeitEncoder) else None
    return None if bias is None else bias()


def queries_and_keys(attn: Any, normed: Tensor) -> tuple[Tensor, Tensor]:
    """A block's queries and keys, (B, heads, 1+L, d) each, from its normed input (B, 1+L, D)."""
    width = attn.qkv.weight.shape[0] // 3
    bias = attn.qkv.bias
    if bias is not None:
        bias = bias[: 2 * width]
    elif getattr(attn, "q_bias", None) is not None:
        bias = torch.cat([attn.q_bias, attn.k_bias])
    both = F.linear(normed, attn.qkv.weight[: 2 * width], bias)
    count, length = normed.shape[:2]
    queries, keys = both.reshape(count, length, 2, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    return queries, keys


def attention_weights(attn: Any, queries: Tensor, keys: Tensor, shared: Tensor | None) -> Tensor:
    """Softmax of the scaled products, with BEiT's bias where there is one: (B, heads, N, N)."""
    scores = (queries * attn.scale) @ keys.transpose(-2, -1)
    table = getattr(attn, "relative_position_bias_table", None)
    if table is not None:
        scores = scores + table[attn.relative_position_index].permute(2, 0, 1)
    if shared is not None:
        scores = scores + shared
    weights: Tensor = scores.float().softmax(dim=-1)
    return weights
