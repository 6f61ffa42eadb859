"""Classifiers against brute force and scikit-learn, and who may see which labels."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from contramask.transfer.classifiers import (
    knn_votes,
    linear_scores,
    logistic_regression,
    nearest,
    standardise,
    top,
    top1,
)

CLASSES = 4


def blobs(count: int, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Features (count, 6) around one centre a class, and labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(CLASSES, 6))
    labels = rng.integers(0, CLASSES, count)
    features = centres[labels] + spread * rng.normal(size=(count, 6))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (500, 0.07)])
def test_knn_equals_a_brute_force_vote(k: int, temperature: float) -> None:
    (train, labels), (test, _) = blobs(60), blobs(25, seed=1)
    votes = knn_votes(train, labels, test, CLASSES, k, temperature)
    for query, given in zip(test.double().numpy(), votes.numpy(), strict=True):
        gallery = train.double().numpy()
        cosine = gallery @ query / np.linalg.norm(gallery, axis=1) / np.linalg.norm(query)
        expected = np.zeros(CLASSES)
        for neighbour in np.argsort(-cosine)[:k]:
            expected[labels[neighbour]] += math.exp(cosine[neighbour] / temperature)
        assert given / given.sum() == pytest.approx(expected / expected.sum(), abs=1e-4)


@pytest.mark.parametrize("k", [3, 20])
def test_knn_equals_scikit_learns(k: int) -> None:
    (train, labels), (test, _) = blobs(300), blobs(100, seed=1)
    votes = knn_votes(train, labels, test, CLASSES, k, 0.07)
    reference = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    )
    reference.fit(train.numpy(), labels.numpy())
    share = votes / votes.sum(dim=1, keepdim=True)
    assert np.abs(share.numpy() - reference.predict_proba(test.numpy())).max() < 1e-3


def test_knn_looks_at_directions_only() -> None:
    (train, labels), (test, _) = blobs(60), blobs(25, seed=1)
    votes = knn_votes(train, labels, test, CLASSES)
    scaled = knn_votes(train * torch.rand(60, 1).add(0.5), labels, 7 * test, CLASSES)
    torch.testing.assert_close(scaled, votes, atol=1e-3, rtol=1e-3)


def test_knn_survives_small_temperatures_and_many_queries() -> None:
    (train, labels), (test, truth) = blobs(200, spread=0.1), blobs(2100, seed=1, spread=0.1)
    votes = knn_votes(train, labels, test, CLASSES, 20, temperature=0.001)
    assert votes.shape == (2100, CLASSES)
    assert votes.isfinite().all()
    assert top1(votes, truth) > 95
    torch.testing.assert_close(
        votes[2000:], knn_votes(train, labels, test[2000:], CLASSES, 20, 0.001)
    )


def test_one_ranking_serves_every_k() -> None:
    (train, labels), (test, _) = blobs(60), blobs(25, seed=1)
    found = nearest(train, test, 30)
    assert found.rows.shape == (25, 30)
    assert (found.similarity.diff(dim=1) <= 0).all()
    for k in (1, 7, 30, 500):
        votes = found.votes(labels, CLASSES, k, 0.07)
        expected = knn_votes(train, labels, test, CLASSES, min(k, 30), 0.07)
        torch.testing.assert_close(votes, expected)


def test_no_query_is_its_own_neighbour() -> None:
    features, _ = blobs(1100)
    own = torch.arange(1100)
    found = nearest(features, features, 2000, own)
    assert found.rows.shape == (1100, 1099)
    assert not (found.rows == own[:, None]).any()
    assert found.similarity.isfinite().all()
    subset = torch.tensor([5, 900, 17])  # queries may lie anywhere in the gallery
    few = nearest(features, features[subset], 3, subset)
    torch.testing.assert_close(few.rows, found.rows[subset, :3])


def test_of_equally_near_neighbours_the_first_come_first() -> None:
    gallery = torch.tensor([[1.0, 0.0]]).repeat(50, 1)
    assert nearest(gallery, gallery[:3], 4).rows.tolist() == [[0, 1, 2, 3]] * 3


def test_top_counts_labels_among_the_largest() -> None:
    scores = torch.tensor([[0.3, 0.2, 0.1], [0.1, 0.2, 0.3]])
    assert [top(scores, torch.tensor([1, 0]), count) for count in (1, 2, 3)] == [0, 50, 100]


def test_top1_in_percent() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    assert top1(scores, torch.tensor([1, 0, 0, 0])) == 75


def test_standardising_measures_the_first_alone() -> None:
    (train, _), (test, _) = blobs(50), blobs(20, seed=1)
    train[:, 2] = 5.0  # a dimension that says nothing
    ours, other = standardise(train, test)
    rest = [0, 1, 3, 4, 5]
    torch.testing.assert_close(ours.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[:, rest].std(dim=0, correction=0), torch.ones(5))
    mean, std = train[:, rest].mean(dim=0), train[:, rest].std(dim=0, correction=0)
    torch.testing.assert_close(other[:, rest], (test[:, rest] - mean) / std)
    alone = standardise(train[:1], test)
    assert alone[0].isfinite().all()
    assert alone[1].isfinite().all()


@pytest.mark.parametrize("weight_decay", [1e-3, 1e-2, 1.0])
def test_logistic_regression_equals_scikit_learns(weight_decay: float) -> None:
    features, labels = blobs(200)
    weight, bias = logistic_regression(features, labels, CLASSES, weight_decay)
    # Theirs minimises the sum, with 1 / C before the penalty.
    reference = LogisticRegression(C=1 / (200 * weight_decay), tol=1e-9, max_iter=5000)
    reference.fit(features.double().numpy(), labels.numpy())
    assert np.abs(weight.numpy() - reference.coef_).max() < 1e-3
    centred = bias - bias.mean()  # a constant added to all changes nothing
    offset = reference.intercept_ - reference.intercept_.mean()
    assert np.abs(centred.numpy() - offset).max() < 1e-3
    ours = (features @ weight.T + bias).softmax(dim=1)
    assert np.abs(ours.numpy() - reference.predict_proba(features.numpy())).max() < 1e-3


@pytest.mark.parametrize(("count", "dims"), [(400, 60), (12, 60)])
def test_it_converges_where_features_are_badly_scaled(count: int, dims: int) -> None:
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(count, dims)) @ (
        rng.normal(size=(dims, dims)) / np.arange(1, dims + 1)
    )
    features = torch.tensor(mixed, dtype=torch.float32) + 5
    labels = torch.tensor(rng.integers(0, CLASSES, count))
    weight, bias = logistic_regression(features, labels, CLASSES, 1e-3)
    weight, bias = weight.double().requires_grad_(), bias.double().requires_grad_()
    logits = features.double() @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, labels) + 5e-4 * weight.square().sum()
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 2e-5


def test_constant_features_leave_the_share_of_each_class() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    weight, bias = logistic_regression(torch.ones(4, 3), labels, 2, 1e-3)
    assert weight.abs().max() == 0
    torch.testing.assert_close(bias.softmax(dim=0), torch.tensor([0.25, 0.75]))


def test_a_class_without_an_image_is_allowed() -> None:
    features, labels = blobs(60)
    keep = labels != 2
    weight, bias = logistic_regression(features[keep], labels[keep], CLASSES, 1e-2)
    assert weight.shape == (CLASSES, 6)
    assert not ((features @ weight.T + bias).argmax(dim=1) == 2).any()


def test_the_weight_decay_is_chosen_on_train_images_alone() -> None:
    (train, labels), (test, _) = blobs(200, spread=2.0), blobs(50, seed=1)
    grid = (1e-4, 1e-2, 1.0, 100.0)
    scores, chosen = linear_scores(train, labels, test, CLASSES, grid, seed=0)
    assert chosen in grid
    # Whatever the test images are, the choice is the same, and each row has its own scores.
    other, again = linear_scores(train, labels, 100 * torch.randn(3, 6), CLASSES, grid, seed=0)
    assert again == chosen
    assert other.shape == (3, CLASSES)
    permuted, _ = linear_scores(train, labels, test.flip(0), CLASSES, grid, seed=0)
    torch.testing.assert_close(permuted.flip(0), scores)


def test_the_final_classifier_is_fitted_on_all_train_images() -> None:
    (train, labels), (test, _) = blobs(120), blobs(30, seed=1)
    scores, chosen = linear_scores(train, labels, test, CLASSES, (1e-2,), seed=0)
    ours, other = standardise(train, test)
    weight, bias = logistic_regression(ours, labels, CLASSES, 1e-2)
    assert chosen == 1e-2
    torch.testing.assert_close(scores, other @ weight.T + bias)


def test_one_image_is_enough_to_go_on() -> None:
    train = torch.tensor([[1.0, 2.0]])
    scores, _ = linear_scores(train, torch.tensor([1]), train, 2, (1e-3, 1e-2), seed=0)
    assert scores.isfinite().all()


def test_a_useless_weight_decay_is_not_chosen() -> None:
    (train, labels), (test, truth) = blobs(300, spread=0.3), blobs(100, seed=1, spread=0.3)
    labels[:] = labels.clamp_max(1)  # unbalanced: the strongest penalty says 1 always
    scores, chosen = linear_scores(train, labels, test, CLASSES, (1e4, 1e-3), seed=0)
    assert chosen == 1e-3
    assert top1(scores, truth.clamp_max(1)) > 90


def test_the_images_that_choose_are_not_those_that_train() -> None:
    # Many dimensions and little signal: without a penalty everything is learnt by heart.
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(400, 200, generator=generator)
    labels = (train[:, 0] + 0.3 * torch.randn(400, generator=generator) > 0).long()
    _, chosen = linear_scores(train, labels, train[:1], 2, (1e-5, 0.1), seed=0)
    assert chosen == 0.1
