"""Retrieval against a brute-force count, with and without queries in the gallery."""

import numpy as np
import pytest
import torch
from torch import Tensor

from contramask.transfer.classifiers import nearest
from contramask.transfer.retrieval import METRICS, retrieve


def cloud(count: int, classes: int, seed: int, dims: int = 5) -> tuple[Tensor, Tensor]:
    """Features around one centre a class, and unbalanced labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(classes, dims))
    labels = np.minimum(rng.integers(0, classes, count), rng.integers(0, classes, count))
    features = centres[labels] + rng.normal(size=(count, dims))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def brute_force(
    gallery: Tensor, gallery_labels: Tensor, queries: Tensor, labels: Tensor, loo: bool
) -> dict[str, float]:
    """The definitions, one query and one rank at a time."""
    unit = gallery.double() / gallery.double().norm(dim=1, keepdim=True)
    found: dict[str, list[float]] = {}
    for number, (query, label) in enumerate(zip(queries.double(), labels, strict=True)):
        order = (-(unit @ query)).argsort(stable=True).tolist()
        order = [place for place in order if not (loo and place == number)]
        hits = [bool(gallery_labels[place] == label) for place in order]
        total = sum(hits)
        if total == 0:
            continue
        for k in (1, 5, 10):
            found.setdefault(f"recall_at_{k}", []).append(float(any(hits[:k])))
        for name, limit in (("map_at_r", total), ("map_at_100", 100)):
            precision = [
                sum(hits[: i + 1]) / (i + 1) for i in range(min(limit, len(hits))) if hits[i]
            ]
            found.setdefault(name, []).append(sum(precision) / min(total, limit))
    return {name: 100 * float(np.mean(values)) for name, values in found.items()}


@pytest.mark.parametrize("classes", [2, 12])
def test_scores_equal_a_brute_force_count(classes: int) -> None:
    (gallery, gallery_labels), (queries, labels) = cloud(300, classes, 0), cloud(40, classes, 1)
    scores = retrieve(gallery, gallery_labels, queries, labels).scores
    assert scores == pytest.approx(
        brute_force(gallery, gallery_labels, queries, labels, loo=False), abs=1e-3
    )


@pytest.mark.parametrize(("count", "classes"), [(150, 4), (30, 2), (60, 1)])
def test_leave_one_out_equals_a_brute_force_count(count: int, classes: int) -> None:
    features, labels = cloud(count, classes, 0)
    own = torch.arange(count)
    scores = retrieve(features, labels, features, labels, own).scores
    expected = brute_force(features, labels, features, labels, loo=True)
    assert scores == pytest.approx(expected, abs=1e-3)


def test_a_query_does_not_find_itself() -> None:
    # Each image's only neighbour of its class is itself; without the rule recall would be 100.
    features, labels = torch.eye(6), torch.tensor([0, 0, 1, 1, 2, 3])
    own = torch.arange(6)
    assert retrieve(features, labels, features, labels).scores["recall_at_1"] == 100
    found = retrieve(features, labels, features, labels, own, keep=9)
    assert found.nearest.rows.shape == (6, 5)
    assert not (found.nearest.rows == own[:, None]).any()
    scores = found.scores
    # Classes 2 and 3 have nothing left to find and are left out; the others find at random.
    assert scores["recall_at_10"] == 100
    assert scores["recall_at_1"] < 100


def test_what_a_gallery_lacks_is_not_asked_for() -> None:
    gallery, gallery_labels = torch.eye(3), torch.tensor([0, 0, 1])
    queries, labels = torch.eye(3)[[0, 2]], torch.tensor([0, 7])
    found = retrieve(gallery, gallery_labels, queries, labels)
    assert found.scores["recall_at_1"] == 100
    alone = retrieve(gallery, gallery_labels, queries, torch.tensor([7, 8]))
    assert alone.scores == dict.fromkeys(METRICS, 0.0)


@pytest.mark.parametrize("keep", [1, 7, 250])
def test_the_nearest_are_kept_for_others(keep: int) -> None:
    (gallery, gallery_labels), (queries, labels) = cloud(300, 3, 0), cloud(270, 3, 1)
    found = retrieve(gallery, gallery_labels, queries, labels, keep=keep)
    expected = nearest(gallery, queries, keep)
    assert torch.equal(found.nearest.rows, expected.rows)
    torch.testing.assert_close(found.nearest.similarity, expected.similarity)


def test_labels_without_meaning_give_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1500, 16, generator=generator)
    labels = torch.randint(0, 5, (1500,), generator=generator)
    own = torch.arange(1500)
    scores = retrieve(features, labels, features, labels, own).scores
    assert scores["recall_at_1"] == pytest.approx(20, abs=3)
    assert scores["recall_at_5"] == pytest.approx(100 * (1 - 0.8**5), abs=4)
    assert scores["map_at_r"] == pytest.approx(4, abs=1.5)  # about the square of the share


def test_separate_classes_are_found_completely() -> None:
    labels = torch.arange(200) % 4
    features = torch.eye(4)[labels] + 0.01 * torch.randn(200, 4)
    own = torch.arange(200)
    scores = retrieve(features, labels, features, labels, own).scores
    assert set(scores.values()) == {100.0}
