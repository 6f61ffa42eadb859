"""Few labels: a linear classifier that sees some images of each class, over several draws."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from contramask.transfer.classifiers import logistic_regression, standardise, top1


def shots(count: int) -> Callable[[int], int]:
    """How many images of a class to label: `count`, whatever there are."""
    return lambda available: count


def share(part: float) -> Callable[[int], int]:
    """How many images of a class to label: `part` of them, at least one (SimCLRv2's splits)."""
    return lambda available: max(round(part * available), 1)


def low_shot_splits(
    labels: Tensor, wanted: Callable[[int], int], splits: int, seed: int
) -> list[Tensor]:
    """Row numbers of the labelled images, one tensor a split, fixed by the seed.

    The splits share no image of a class that has enough of them; a smaller class is begun again
    from its first image. Of a class with fewer images than wanted each split takes all.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen: list[list[Tensor]] = [[] for _ in range(splits)]
    for rows in torch.split(
        order[labels[order].argsort(stable=True)], torch.bincount(labels).tolist()
    ):
        count = min(wanted(len(rows)), len(rows))
        for number, split in enumerate(chosen):
            split.append(rows[(number * count + torch.arange(count)) % max(len(rows), 1)])
    return [torch.cat(split) for split in chosen]


def low_shot_top1(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    truth: Tensor,
    splits: list[Tensor],
    weight_decay: float,
) -> list[float]:
    """Top-1 in percent on `test` (M, D) of one classifier a split, trained on those rows alone.

    Logistic regression with an L2 penalty, as MSN (2204.07141) and DINOv2 measure it. Features are
    standardised by all of `train` (N, D), for which no label is needed.
    """
    train, test = standardise(train, test)
    num_classes = int(labels.max()) + 1
    found = []
    for rows in splits:
        weight, bias = logistic_regression(train[rows], labels[rows], num_classes, weight_decay)
        found.append(top1(F.linear(test, weight, bias), truth))
    return found
