"""From a sequence of tokens to one contrastive feature an image, and its slowly moving target."""

import torch
from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from contramask.ema import ema_update, frozen_copy
from contramask.models.encoder import VisionEncoder, mae_init
from contramask.models.moco_heads import MoCoHead

_BLOCKS = 2  # of SDMAE's branch, as released


class ClassProjector(nn.Module):
    """Projects the class token of tokens (B, 1+N, in_dim), as MoCo-v3 on a ViT."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.head = MoCoHead(in_dim, hidden_dim, out_dim, depth=3)

    def pool(self, tokens: Tensor) -> Tensor:
        """What `head` projects, (B, in_dim): the first token; the others are not read."""
        return tokens[:, 0]


class DecoderBranch(nn.Module):
    """Two transformer blocks over decoder tokens (B, 1+L, in_dim), then the class token's head.

    SDMAE's contrastive branch (Talented-Q/SDMAE). The released one reads the pixel head's output,
    which fits its blocks only where p*p*C equals D (ViT-B/16 in colour); this one reads the tokens
    before that head through a linear layer, so it works for every size. As released, the blocks
    have no final norm.
    """

    def __init__(self, in_dim: int, encoder: VisionEncoder, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        width, _, heads = encoder.config.sizes
        ratio = encoder.config.mlp_ratio
        self.embed = nn.Linear(in_dim, width)
        self.blocks = nn.Sequential(
            *(
                Block(width, heads, ratio, qkv_bias=True, norm_layer=LayerNorm)
                for _ in range(_BLOCKS)
            )
        )
        mae_init(self)
        self.head = MoCoHead(width, hidden_dim, out_dim, depth=3)

    def pool(self, tokens: Tensor) -> Tensor:
        """What `head` projects, (B, D): the class token after both blocks."""
        return self.blocks(self.embed(tokens))[:, 0]  # type: ignore[no-any-return]


class MomentumBranch(nn.Module):
    """Queries from a projector and a predictor, keys from the projector's moving average.

    The predictor is MoCo-v3's, out_dim to hidden_dim to out_dim. Pooling keeps images apart; in the
    heads' batch norms they meet.
    """

    def __init__(
        self, projector: ClassProjector | DecoderBranch, hidden_dim: int, out_dim: int
    ) -> None:
        super().__init__()
        self.projector = projector
        self.predictor = MoCoHead(out_dim, hidden_dim, out_dim, depth=2)
        self.target_projector = frozen_copy(projector)

    def pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 1+N, D) to what queries are made of, one feature an image, with gradient."""
        return self.projector.pool(tokens)

    @torch.no_grad()
    def target_pool(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 1+N, D) to what keys are made of, one feature an image, without gradient."""
        return self.target_projector.pool(tokens)

    def query(self, features: Tensor) -> Tensor:
        """Pooled features to queries (B, out_dim), with gradient."""
        return self.predictor(self.projector.head(features))  # type: ignore[no-any-return]

    @torch.no_grad()
    def key(self, features: Tensor) -> Tensor:
        """Pooled features to keys (B, out_dim), without gradient."""
        return self.target_projector.head(features)  # type: ignore[no-any-return]

    def update(self, momentum: float) -> None:
        """Move the target projector towards the projector."""
        ema_update(self.target_projector, self.projector, momentum)
