"""Each heat map on tokens, keys and attention of which the answer is known."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from contramask.boxes.token_maps import (
    class_attention_map,
    first_component,
    key_similarity,
    normalised_cut,
    rollout,
    token_norm,
)

SIDE = 8
LENGTH = SIDE * SIDE


def planted(rows: slice, cols: slice) -> Tensor:
    """True on the patches of a rectangle, (L,)."""
    grid = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    grid[rows, cols] = True
    return grid.flatten()


OBJECTS = torch.stack(
    [
        planted(slice(2, 5), slice(1, 4)),
        planted(slice(4, 7), slice(3, 7)),
        planted(slice(1, 3), slice(5, 7)),
    ]
)
BORDER = ~planted(slice(1, -1), slice(1, -1))


def two_clusters(noise: float) -> Tensor:
    """Tokens (3, L, 16): one direction on the object, the opposite one elsewhere, and noise."""
    torch.manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(16), dim=0)
    signs = torch.where(OBJECTS, 1.0, -1.0)
    return signs[..., None] * direction + noise * torch.randn(3, LENGTH, 16)


def separates(maps: Tensor) -> bool:
    """Whether every patch of the object lies above every other patch."""
    low = torch.where(OBJECTS, maps, torch.inf).amin(dim=1)
    high = torch.where(OBJECTS, -torch.inf, maps).amax(dim=1)
    return bool((low > high).all())


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_cut_separates_two_clusters(noise: float) -> None:
    assert separates(normalised_cut(two_clusters(noise)))


def test_the_cut_is_the_second_eigenvector_of_the_generalised_problem() -> None:
    torch.manual_seed(3)
    keys = torch.randn(5, LENGTH, 12) + torch.where(OBJECTS[0], 0.5, -0.5)[None, :, None]
    unit = torch.nn.functional.normalize(keys, dim=2)
    affinity = torch.where(unit @ unit.transpose(1, 2) > 0.2, 1.0, 1e-5).double().numpy()
    for edges, found in zip(affinity, normalised_cut(keys).numpy(), strict=True):
        degree = np.diag(edges.sum(axis=1))
        _, vectors = scipy.linalg.eigh(degree - edges, degree, subset_by_index=[1, 1])
        expected = vectors[:, 0] / np.linalg.norm(vectors)
        found = found / np.linalg.norm(found)
        assert abs(expected @ found) > 0.999
        assert found[np.abs(found).argmax()] > 0


def test_patches_all_alike_or_none_alike_cannot_be_cut() -> None:
    assert normalised_cut(5 + torch.rand(2, LENGTH, 8)).abs().max() == 0
    assert normalised_cut(torch.eye(LENGTH)[None]).abs().max() == 0


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_similarity_to_the_seed_finds_the_smaller_cluster(noise: float) -> None:
    assert separates(key_similarity(two_clusters(noise)))


def test_similarity_is_that_of_the_published_steps() -> None:
    torch.manual_seed(5)
    keys = torch.randn(4, LENGTH, 6)
    for each, found in zip(keys, key_similarity(keys), strict=True):
        similarity = each @ each.T
        order = (similarity > 0).sum(dim=1).argsort(stable=True)
        near = order[: LENGTH // 2]
        joined = near[similarity[order[0], near] > 0]
        torch.testing.assert_close(found, similarity[joined].sum(dim=0), atol=1e-4, rtol=1e-4)


def test_the_first_component_separates_two_clusters_with_the_border_low() -> None:
    tokens = two_clusters(0.1)
    assert separates(first_component(tokens, BORDER))
    assert separates(first_component(-tokens + 5, BORDER))


def test_rollout_of_identity_attention_stays_at_the_class_token() -> None:
    eye = torch.eye(1 + LENGTH).expand(3, -1, -1)
    assert rollout([eye] * 4).abs().max() == 0


def test_rollout_is_the_class_row_of_the_product() -> None:
    torch.manual_seed(0)
    blocks = list(torch.randn(4, 3, 1 + LENGTH, 1 + LENGTH).softmax(dim=-1))
    eye = torch.eye(1 + LENGTH)
    product = eye
    for weights in blocks:
        product = (weights + eye) / 2 @ product
    torch.testing.assert_close(rollout(blocks), product[:, 0, 1:])
    # One block that only looks at the object puts half of the flow there.
    looks = torch.zeros(3, 1 + LENGTH, 1 + LENGTH)
    looks[..., 1:] = (OBJECTS / OBJECTS.sum(dim=1, keepdim=True))[:, None]
    assert separates(rollout([looks]))
    torch.testing.assert_close(rollout([looks]).sum(dim=1), torch.full((3,), 0.5))


def test_class_attention_gives_every_head_the_same_say() -> None:
    weak = torch.where(OBJECTS, 0.002, 0.001)
    strong = torch.linspace(0, 0.9, LENGTH).expand(3, -1)
    both = class_attention_map(torch.stack([weak, strong], dim=1))
    expected = (OBJECTS.float() + torch.linspace(0, 1, LENGTH)) / 2
    torch.testing.assert_close(both, expected)
    assert separates(class_attention_map(weak[:, None]))


def test_token_norm_cuts_outliers_off() -> None:
    tokens = torch.where(OBJECTS, 2.0, 1.0)[..., None] * torch.ones(3, LENGTH, 4)
    assert separates(token_norm(tokens))
    tokens[:, 0] = 1000
    norm = token_norm(tokens)
    assert norm.max() < 1000
    torch.testing.assert_close(norm[:, 1:], torch.where(OBJECTS, 4.0, 2.0)[:, 1:])
