"""Classifiers on cached features: weighted nearest neighbours and logistic regression."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

#: Similarities held at once; a chunk of queries is as large as this allows.
_MAX_SIMILARITIES = 2**26


@dataclass(frozen=True)
class Neighbours:
    """The most similar gallery features of each query, the nearest first."""

    similarity: Tensor  # (M, k) cosines, falling
    rows: Tensor  # (M, k) int64 places in the gallery

    def votes(self, labels: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
        """Class votes (M, K) of the first k, see `knn_votes`; `labels` (N,) of the gallery."""
        similarity, rows = self.similarity[:, :k], self.rows[:, :k]
        # Relative, because exp(1 / temperature) overflows below a temperature of 0.012.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        votes = similarity.new_zeros(len(similarity), num_classes)
        return votes.scatter_add_(1, labels[rows], weight)


def nearest(gallery: Tensor, queries: Tensor, k: int, own: Tensor | None = None) -> Neighbours:
    """The k nearest of `gallery` (N, D) for `queries` (M, D) by cosine, or all if N is smaller.

    Exact, in chunks of queries. Of equally similar ones the first come first. `own` (M,) are the
    places in the gallery where the queries themselves lie: no query is its own neighbour.
    """
    unit = F.normalize(gallery, dim=1)
    k = min(k, len(gallery) if own is None else len(gallery) - 1)
    rows = max(1, min(1024, _MAX_SIMILARITIES // max(len(gallery), 1)))
    found = []
    for start in range(0, len(queries), rows):
        similarity = F.normalize(queries[start : start + rows], dim=1) @ unit.T
        if own is not None:
            similarity.scatter_(1, own[start : start + rows, None], -torch.inf)
        found.append(_largest(similarity, k))
    return Neighbours(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _largest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, falling, and where they are; of equal ones the first."""
    largest, places = similarity.topk(k, dim=1)
    # topk may take any of several equal values, so rows with one too many are sorted.
    tied = (similarity >= largest[:, -1:]).sum(dim=1) > k
    if tied.any():
        ordered = similarity[tied].sort(dim=1, descending=True, stable=True)
        largest[tied], places[tied] = ordered.values[:, :k], ordered.indices[:, :k]
    return largest, places


def knn_votes(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Class votes (M, K) of the k most similar train features, DINO's protocol (2104.14294).

    Cosine similarity of L2-normalised features (N, D) and (M, D); each neighbour votes with weight
    exp(similarity / temperature), relative to the nearest one's: that is 1. Of equally similar
    neighbours the first in `train` are taken; fewer than k vote where `train` has fewer.
    """
    return nearest(train, test, k).votes(labels, num_classes, k, temperature)


def top1(scores: Tensor, labels: Tensor) -> float:
    """Share of rows whose largest score is at the label, in percent."""
    return top(scores, labels, 1)


def top(scores: Tensor, labels: Tensor, count: int) -> float:
    """Share of rows whose label is among the `count` largest scores, in percent.

    Of equal scores the lower class comes first; a label of -1 is never found.
    """
    ranked = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
    return 100 * int((ranked == labels[:, None]).any(dim=1).sum()) / max(len(labels), 1)


def standardise(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Zero mean and unit deviation per dimension, measured on `train` and applied to all."""
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0).clamp_min(1e-6)
    return tuple((features - mean) / std for features in (train, *others))


def logistic_regression(
    features: Tensor, labels: Tensor, num_classes: int, weight_decay: float, max_iter: int = 500
) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) that minimise mean cross-entropy + weight_decay/2 |weight|^2.

    The problem is convex, so L-BFGS from zero needs no seed and no learning rate. It is solved in
    coordinates in which it is round, which takes ten times fewer steps and changes no solution.
    """
    inputs, axes, bias_scale = _rounded(features.double(), num_classes, weight_decay)
    target = torch.zeros(num_classes, inputs.shape[1], dtype=torch.float64)
    target.index_add_(0, labels, inputs / len(inputs))
    penalty = F.pad(weight_decay * axes.square().sum(dim=0), (0, 1))  # none on the bias

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = torch.from_numpy(flat).reshape(num_classes, -1)
        log_share = F.log_softmax(inputs @ weight.T, dim=1)
        likelihood = log_share.gather(1, labels[:, None]).mean()
        loss = (penalty * weight.square()).sum() / 2 - likelihood
        gradient = log_share.exp_().T @ inputs / len(inputs) - target + penalty * weight
        return float(loss), gradient.flatten().numpy()

    # float64, because in float32 the line search ends short of the optimum.
    solver = {"maxiter": max_iter, "maxcor": 20, "ftol": 0, "gtol": 1e-7}
    start = np.zeros(num_classes * inputs.shape[1])
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=solver)
    solution = torch.from_numpy(found.x).reshape(num_classes, -1)
    weight = solution[:, :-1] @ axes.T
    bias = solution[:, -1] * bias_scale - weight @ features.double().mean(dim=0)
    return weight.float(), bias.float()


def _rounded(inputs: Tensor, num_classes: int, weight_decay: float) -> tuple[Tensor, Tensor, float]:
    """Centred inputs (N, R+1) along scaled principal axes and 1, the axes (D, R), and 1's scale.

    The curvature along an axis of variance v is about (1/K)(1 - 1/K) v + weight_decay; dividing by
    its root makes all alike. Axes without variance have weight 0 in the solution.
    """
    centred = inputs - inputs.mean(dim=0)
    if len(inputs) > inputs.shape[1]:
        variance, axes = torch.linalg.eigh(centred.T @ centred / len(inputs))
    else:
        _, singular, turned = torch.linalg.svd(centred, full_matrices=False)
        variance, axes = singular.square() / len(inputs), turned.T
    steep = max((1 - 1 / num_classes) / num_classes, 1e-3)
    curvature = steep * variance.clamp_min(0) + weight_decay
    axes = axes / curvature.clamp_min(1e-9 * float(curvature.max()) + 1e-12).sqrt()
    return F.pad(centred @ axes, (0, 1), value=steep**-0.5), axes, steep**-0.5


def linear_scores(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    num_classes: int,
    weight_decays: tuple[float, ...],
    seed: int,
) -> tuple[Tensor, float]:
    """Scores (M, K) of the best linear classifier of a grid, and the weight decay it took.

    Features are standardised; the weight decay is chosen on a tenth of the *train* images and the
    classifier then fitted on all of them, so that no test image has a say.
    """
    train, test = standardise(train, test)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held, rest = order[: max(len(order) // 10, 1)], order[max(len(order) // 10, 1) :]
    best = weight_decays[0]
    if len(weight_decays) > 1 and len(rest):
        scores = []
        for decay in weight_decays:
            weight, bias = logistic_regression(train[rest], labels[rest], num_classes, decay)
            scores.append(top1(F.linear(train[held], weight, bias), labels[held]))
        best = weight_decays[max(range(len(scores)), key=scores.__getitem__)]
    weight, bias = logistic_regression(train, labels, num_classes, best)
    return F.linear(test, weight, bias), best
