"""Where on the grid does a token come from? The head, its two losses, and tokens not told."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.models.encoder import VisionEncoder, mae_init


class PositionHead(nn.Sequential):
    """Tokens (B, N, D) to logits over the L places, (B, N, L): two linear layers, D to D/2 to L.

    Nothing non-linear stands between them, as in SDMAE. The last layer starts at zero, unlike
    there: a head that knows nothing starts with the loss of one that knows nothing, ln L.
    """

    def __init__(self, in_dim: int, num_places: int) -> None:
        super().__init__(nn.Linear(in_dim, in_dim // 2), nn.Linear(in_dim // 2, num_places))
        mae_init(self)
        nn.init.zeros_(self.get_parameter("1.weight"))


def position_cross_entropy(logits: Tensor, places: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, N, L) for the true places (B, N); ln L at chance."""
    return F.cross_entropy(logits.float().flatten(0, 1), places.flatten())


def position_mse(logits: Tensor, places: Tensor) -> Tensor:
    """Mean squared error to the one-hot places, SDMAE's loss as released.

    Predicting 1/L everywhere already gives (1/L)(1 - 1/L): 0.0051 for 196 places, which soon
    vanishes beside the other losses.
    """
    return F.mse_loss(logits.float(), F.one_hot(places, logits.shape[-1]).float())


POSITION_LOSSES = {"ce": position_cross_entropy, "mse_onehot": position_mse}


@torch.no_grad()
def position_gauges(logits: Tensor, places: Tensor) -> dict[str, Tensor]:
    """position_accuracy, the share of tokens whose place scores highest, and position_chance, 1/L.

    Equal scores count in part, so that a head that knows nothing is at chance and not above.
    """
    logits = logits.float()
    best = logits == logits.amax(dim=-1, keepdim=True)
    right = best.gather(-1, places[..., None])[..., 0] / best.sum(dim=-1)
    return {
        "position_accuracy": right.mean(),
        "position_chance": torch.tensor(1 / logits.shape[-1]),
    }


def forward_unplaced(
    encoder: VisionEncoder, images: Tensor, ids_keep: Tensor, unplaced: Tensor
) -> Tensor:
    """As `encoder.forward_tokens`, without position embedding where `unplaced` (B, V) is True.

    Returns (B, 1+V, D), class token first; what such a token is, it can only tell from its content
    and its neighbours'.
    """
    patches = encoder.project(images, ids_keep)  # (B, V, D)
    placed = patches + encoder.positions(ids_keep)
    tokens = torch.where(unplaced[..., None], patches.to(placed.dtype), placed)
    cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(images), -1, -1)
    states = encoder.blocks(torch.cat([cls.to(tokens.dtype), tokens], dim=1))
    return encoder.norm(states)  # type: ignore[no-any-return]
