"""Heat maps from an encoder's tokens, keys and attention, as pure functions of whole batches.

Each gives (B, L) numbers, one a patch, higher where the object is more likely; neither range nor
mean matter, later steps stretch every map to [0, 1]. Sources are in the functions; which map suits
an encoder is a question to its data (`contramask boxes compare`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from contramask.boxes.spectral import leading_vectors

_LOST_PATCHES = 100  # LOST's k: patches of low degree that may join the seed
_CUT_EDGE = 1e-5  # TokenCut's weight of the edges below its threshold
_CUT_THRESHOLD = 0.2  # TokenCut's tau
_NORM_QUANTILE = 0.99


def class_attention_map(attention: Tensor) -> Tensor:
    """Where the class token looks, from its attention rows (B, heads, L).

    m = mean over heads h of (a_h - min a_h) / (max a_h - min a_h): AMT's and MSMAE's form. Says
    something only where the class token was trained, which plain MAE's never is.
    """
    low, high = attention.amin(-1, keepdim=True), attention.amax(-1, keepdim=True)
    return ((attention - low) / (high - low).clamp_min(1e-12)).mean(dim=1)


def rollout(attention: Sequence[Tensor]) -> Tensor:
    """What of the class token's output stems from each patch, by attention (B, 1+L, 1+L) a block.

    m = the class row of A'_n ... A'_1 with A' = (A + I) / 2 and A the mean over heads: attention
    rollout (Abnar and Zuidema, 2005.00928), half for the residual path. Rows of A sum to one, and
    so do those of A'.
    """
    flow = torch.zeros_like(attention[0][:, :1])
    flow[..., 0] = 1  # (B, 1, 1+L)
    for weights in reversed(attention):
        flow = (flow @ weights + flow) / 2
    return flow[:, 0, 1:]


def key_similarity(keys: Tensor) -> Tensor:
    """What is like the patch that is like no other, from keys (B, L, D): LOST (2109.14279).

    With S = K K^T: the seed has the fewest positive entries in its row; of the 100 patches with the
    fewest, at most half of all, those positive to the seed join it; m is the sum of their rows.
    """
    similarity = keys @ keys.transpose(1, 2)  # (B, L, L)
    length = keys.shape[1]
    degree = (similarity > 0).sum(dim=2)
    order = degree.argsort(dim=1, stable=True)
    seed, near = order[:, :1], order[:, : min(_LOST_PATCHES, (length + 1) // 2)]
    to_seed = similarity.gather(1, seed[..., None].expand(-1, -1, length))[:, 0]  # (B, L)
    joins = torch.zeros_like(to_seed).scatter(1, near, (to_seed.gather(1, near) > 0).float())
    return (joins[:, None] @ similarity)[:, 0]


def normalised_cut(keys: Tensor) -> Tensor:
    """Which side of the best cut a patch lies on, from keys (B, L, D): TokenCut (2202.11539).

    Edges are 1 where the keys' cosine exceeds 0.2, else 1e-5; m is the eigenvector of the second
    smallest eigenvalue of (D - A) x = t D x, turned so that its largest entry is positive. Found as
    the leading one of (I + N) / 2 - d d^T, with N = D^-1/2 A D^-1/2 and d = sqrt(degree), |d| = 1.
    Where every patch is like every other, or none is, there is no best cut, and m is constant.
    """
    unit = F.normalize(keys, dim=2)
    alike = unit @ unit.transpose(1, 2) > _CUT_THRESHOLD
    edges = torch.where(alike, 1.0, _CUT_EDGE)
    degree = edges.sum(dim=2)
    root = degree.rsqrt()
    trivial = F.normalize(degree.sqrt(), dim=1)
    balanced = root[:, :, None] * edges * root[:, None, :]
    eye = torch.eye(keys.shape[1], device=keys.device)
    matrix = (balanced + eye) / 2 - trivial[:, :, None] * trivial[:, None, :]
    count, length = alike.sum(dim=(1, 2)), keys.shape[1]
    cuttable = (count > length) & (count < length**2)  # each patch is like itself
    vector = leading_vectors(matrix) * root * cuttable[:, None]
    largest = vector.gather(1, vector.abs().argmax(dim=1, keepdim=True))
    return torch.where(largest < 0, -vector, vector)


def first_component(tokens: Tensor, border: Tensor) -> Tensor:
    """Each patch token's place along its image's first principal component, from (B, L, D).

    m = the leading eigenvector of X X^T, X centred within the image; the sign makes the mean over
    the `border` (L,) bool patches lower than that of the whole image.
    """
    centred = tokens - tokens.mean(dim=1, keepdim=True)
    vector = leading_vectors(centred @ centred.transpose(1, 2))
    turned = vector[:, border].mean(dim=1) > vector.mean(dim=1)
    return torch.where(turned[:, None], -vector, vector)


def token_norm(tokens: Tensor) -> Tensor:
    """The length of each patch token (B, L, D) before the final norm, which makes all equal.

    Cut off at the image's 99th percentile: a few tokens of some encoders are outliers that mark no
    place.
    """
    norm: Tensor = tokens.norm(dim=2)
    return norm.minimum(norm.quantile(_NORM_QUANTILE, dim=1, keepdim=True))
