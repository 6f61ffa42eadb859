"""Classifiers on cached features: weighted nearest neighbours and logistic regression."""

import torch
from torch import Tensor
from torch.nn import functional as F

#: Similarities held at once; a chunk of queries is as large as this allows.
_MAX_SIMILARITIES = 2**26


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
    exp(similarity / temperature), relative to the nearest one's: that is 1. Exact, in chunks of
    queries. Of equally similar neighbours the first in `train` are taken; fewer than k vote where
    `train` has fewer.
    """
    gallery = F.normalize(train, dim=1)
    rows = max(1, min(1024, _MAX_SIMILARITIES // len(gallery)))
    votes = []
    for queries in torch.split(F.normalize(test, dim=1), rows):
        similarity, neighbours = _nearest(queries @ gallery.T, min(k, len(gallery)))
        # Relative, because exp(1 / temperature) overflows below a temperature of 0.012.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        vote = queries.new_zeros(len(queries), num_classes)
        votes.append(vote.scatter_add_(1, labels[neighbours], weight))
    return torch.cat(votes)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, falling, and where they are; of equal ones the first."""
    largest, places = similarity.topk(k, dim=1)
    # topk may take any of several equal values, so rows with one too many are sorted.
    tied = (similarity >= largest[:, -1:]).sum(dim=1) > k
    if tied.any():
        ordered = similarity[tied].sort(dim=1, descending=True, stable=True)
        largest[tied], places[tied] = ordered.values[:, :k], ordered.indices[:, :k]
    return largest, places


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
    features: Tensor, labels: Tensor, num_classes: int, weight_decay: float, max_iter: int = 200
) -> tuple[Tensor, Tensor]:
    """Weight (K, D) and bias (K,) that minimise mean cross-entropy + weight_decay/2 |weight|^2.

    The problem is convex, so L-BFGS from zero needs no seed and no learning rate.
    """
    inputs = features.double()  # in float32 the line search ends short of the optimum
    weight = inputs.new_zeros(num_classes, inputs.shape[1]).requires_grad_()
    bias = inputs.new_zeros(num_classes).requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iter, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(F.linear(inputs, weight, bias), labels)
        loss = loss + weight_decay / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().float(), bias.detach().float()


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
    if len(weight_decays) > 1:
        scores = []
        for decay in weight_decays:
            weight, bias = logistic_regression(train[rest], labels[rest], num_classes, decay)
            scores.append(top1(F.linear(train[held], weight, bias), labels[held]))
        best = weight_decays[max(range(len(scores)), key=scores.__getitem__)]
    weight, bias = logistic_regression(train, labels, num_classes, best)
    return F.linear(test, weight, bias), best


def low_shot_rows(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Row numbers of `shots` random images of each class, or all of a class that has fewer."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = labels[order]
    return torch.cat([order[shuffled == c][:shots] for c in range(int(labels.max()) + 1)])
