"""Shape of a cloud of features, for which no label is needed: rank, spread, alignment."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def rankme(features: Tensor) -> float:
    """RankMe (2210.02885, eq. 1-2): exp of the entropy of the singular values of (N, D) features.

    Between 1 (all features on one line through 0) and min(N, D); not centred, as in the paper.
    """
    matrix = features.double()
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    share = singular / singular.sum().clamp_min(1e-12) + 1e-7
    return math.exp(-float((share * share.log()).sum()))


def feature_std(features: Tensor) -> float:
    """Mean deviation of unit features (N, D) per dimension times sqrt(D): 1 spread, 0 collapsed."""
    unit = F.normalize(features, dim=1)
    return float(unit.std(dim=0, correction=0).mean()) * math.sqrt(features.shape[1])


def uniformity(features: Tensor, scale: float = 2.0) -> float:
    """log of the mean of exp(-scale |x - y|^2) over all pairs of unit features (2005.10242, eq. 5).

    0 when all are equal; lower is better. Features (N, D) with N > 1.
    """
    unit = F.normalize(features, dim=1)
    total, count = 0.0, len(unit)
    for rows in torch.split(unit, 1024):
        total += float((2 * scale * (rows @ unit.T - 1)).exp().sum(dtype=torch.float64))
    # Without the pairs of a feature and itself, each of which counted exp(0).
    return math.log(max(total - count, 1e-300) / (count * (count - 1)))


def alignment(features: Tensor, other: Tensor) -> float:
    """Mean squared distance of unit features (N, D) of two views of an image (2005.10242, eq. 4).

    0 when both views look alike to the encoder; lower is better.
    """
    distance = F.normalize(features, dim=1) - F.normalize(other, dim=1)
    return float(distance.square().sum(dim=1).mean())
