"""Few labels: which images are labelled, and that only those are learnt from."""

import numpy as np
import pytest
import torch

from contramask.transfer.low_shot import low_shot_splits, low_shot_top1, share, shots

LABELS = torch.tensor([0] * 30 + [1] * 12 + [2] * 200)[torch.randperm(242)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_splits_take_equally_many_of_each_class_and_share_none(count: int) -> None:
    splits = low_shot_splits(LABELS, shots(count), 3, seed=0)
    assert len(splits) == 3
    for rows in splits:
        assert torch.bincount(LABELS[rows]).tolist() == [count] * 3
    together = torch.cat(splits).tolist()
    assert len(set(together)) == len(together)


def test_a_share_of_each_class_and_at_least_one() -> None:
    for rows in low_shot_splits(LABELS, share(0.1), 3, seed=0):
        assert torch.bincount(LABELS[rows]).tolist() == [3, 1, 20]
    for rows in low_shot_splits(LABELS, share(0.01), 3, seed=0):
        assert torch.bincount(LABELS[rows]).tolist() == [1, 1, 2]


def test_splits_are_fixed_by_the_seed() -> None:
    first, again = (low_shot_splits(LABELS, shots(5), 3, seed=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = low_shot_splits(LABELS, shots(5), 3, seed=4)
    assert not torch.equal(torch.cat(first), torch.cat(other))


def test_a_small_class_gives_what_it_has() -> None:
    labels = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2])  # class 1 has none
    splits = low_shot_splits(labels, shots(4), 3, seed=0)
    for rows in splits:
        assert torch.bincount(labels[rows], minlength=3).tolist() == [3, 0, 4]
        assert len(set(rows.tolist())) == len(rows)
    # Two images of class 2 remain untouched by the first split; the second takes both.
    assert set(torch.cat(splits[:2])[labels[torch.cat(splits[:2])] == 2].tolist()) == set(
        range(3, 8)
    )


def test_only_the_chosen_rows_teach() -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor(rng.integers(0, 2, 200))
    train = torch.tensor(rng.normal(size=(200, 8)), dtype=torch.float32)
    train[:, 0] += 9 * labels
    test, truth = train.clone(), labels
    rows = low_shot_splits(labels, shots(5), 2, seed=0)
    right = low_shot_top1(train, labels, test, truth, rows, 0.01)
    assert len(right) == 2
    assert min(right) > 75
    wrong = 1 - labels
    wrong[torch.cat(rows)] = labels[torch.cat(rows)]  # all others are mislabelled
    assert low_shot_top1(train, wrong, test, truth, rows, 0.01) == right


def test_labels_without_meaning_give_chance() -> None:
    rng = np.random.default_rng(0)
    train, test = (torch.tensor(rng.normal(size=(n, 16)), dtype=torch.float32) for n in (600, 2000))
    labels, truth = (torch.tensor(rng.integers(0, 4, n)) for n in (600, 2000))
    found = low_shot_top1(train, labels, test, truth, low_shot_splits(labels, shots(5), 3, 0), 0.01)
    assert np.mean(found) == pytest.approx(25, abs=3)
