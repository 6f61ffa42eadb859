"""The codebook: its averages, its restarts, its gradient, and that it does not collapse."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from contramask.models.codebook import Codebook, CodebookConfig, codebook_size
from contramask.models.token_health import perplexity

PLAIN = CodebookConfig(dim=3, windows=(1, 1), restart_until=0)


def points(count: int, dim: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def book(size: int = 4, config: CodebookConfig = PLAIN) -> Codebook:
    """A codebook started on random points."""
    made = Codebook(size, config)
    made.start(made.project(points(20 * size, config.dim)), seed=0)
    return made


def test_nearest_is_nearest() -> None:
    made, vectors = book(), points(50, seed=1).reshape(5, 10, 3)
    distance = (vectors[:, :, None] - made.codes).square().sum(dim=-1)
    assert torch.equal(made.nearest(vectors), distance.argmin(dim=-1))


def test_reduced_precision_around_it_changes_no_token() -> None:
    made, vectors = book(), points(200, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = made.nearest(vectors)
    assert torch.equal(inside, made.nearest(vectors))


def test_averages_equal_their_closed_form() -> None:
    made = book()
    batches = [points(30, seed=s) for s in range(1, 4)]
    counts, sums = made.counts.clone(), made.sums.clone()
    for vectors in batches:
        ids = made.nearest(vectors)
        hot = torch.nn.functional.one_hot(ids, 4).float()
        counts = 0.99 * counts + 0.01 * hot.sum(dim=0)
        sums = 0.99 * sums + 0.01 * hot.T @ vectors
        made.update(vectors, ids, progress=0.5)
    smooth = (counts + 1e-5) / (counts.sum() + 4e-5) * counts.sum()
    torch.testing.assert_close(made.counts, counts)
    torch.testing.assert_close(made.codes, sums / smooth[:, None])


def test_a_start_places_codes_on_the_clusters() -> None:
    centres = torch.tensor([[0.0, 0.0, 5.0], [0.0, 5.0, 0.0]])
    vectors = centres.repeat_interleave(60, dim=0) + 0.01 * points(120)
    made = Codebook(4, PLAIN)
    made.start(vectors, seed=0)
    assert torch.cdist(centres, made.codes).amin(dim=1).max() < 0.1
    assert torch.cdist(made.codes, centres).amin(dim=1).max() < 0.1
    before = made.codes.clone()
    made.update(vectors, made.nearest(vectors), progress=1.0)
    torch.testing.assert_close(made.codes, before, atol=0.05, rtol=0)  # nothing drifts to 0


def test_a_start_needs_a_vector_for_each_code() -> None:
    with pytest.raises(ValueError, match=r"4 codes cannot be placed on 3 .*codebook\.size"):
        Codebook(4, PLAIN).start(points(3), seed=0)


def with_dead_codes(config: CodebookConfig) -> tuple[Codebook, Tensor]:
    """Two codes in the middle of the data and two far away, and the data."""
    made = Codebook(4, config)
    vectors = points(100)
    made.codes.copy_(torch.tensor([[-1.0, 0, 0], [90, 0, 0], [1, 0, 0], [0, 90, 0]]))
    made.counts.fill_(25.0)
    made.sums.copy_(made.codes * 25)
    return made, vectors


def test_a_restart_replaces_exactly_the_dead_codes() -> None:
    made, vectors = with_dead_codes(replace(PLAIN, restart_until=1.0))
    quiet, _ = with_dead_codes(PLAIN)
    ids = made.nearest(vectors)
    quiet.update(vectors, ids, progress=0.5)
    made.update(vectors, ids, progress=0.5)
    alive, dead = [0, 2], [1, 3]
    assert torch.equal(made.codes[alive], quiet.codes[alive])
    for code in dead:
        assert (made.codes[code] == vectors).all(dim=1).any()
    assert not torch.equal(made.codes[1], made.codes[3])
    mean = quiet.counts.mean()
    torch.testing.assert_close(made.counts[dead], mean.expand(2))
    torch.testing.assert_close(made.sums[dead], mean * made.codes[dead])
    assert made.hits.sum() == 0
    assert made.clock.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "count", "progress"),
    [
        ({"windows": (2, 2)}, 100, 0.5),  # the window is not over
        ({"switch_step": 0, "windows": (1, 5)}, 100, 0.5),  # nor is the later, longer one
        ({}, 79, 0.5),  # fewer than 20 vectors a code: chance
        ({"restart_until": 0.8}, 100, 0.9),  # the last codes settle
    ],
)
def test_no_restart_before_its_time(
    settings: dict[str, object], count: int, progress: float
) -> None:
    config = replace(PLAIN, **{"restart_until": 1.0, **settings})
    made, vectors = with_dead_codes(config)
    made.update(vectors[:count], made.nearest(vectors[:count]), progress)
    assert made.codes[1, 0] > 80
    assert made.hits.sum() == count


def test_ranks_that_share_a_batch_agree_with_one_that_has_it_all() -> None:
    config = replace(PLAIN, restart_until=1.0)
    alone, vectors = with_dead_codes(config)
    ids = alone.nearest(vectors)
    alone.update(vectors, ids, progress=0.5)
    whole = {torch.float32: vectors, torch.int64: ids}
    for rank in range(2):
        made, _ = with_dead_codes(config)
        made.gather = lambda values: whole[values.dtype]
        mine = slice(50 * rank, 50 * (rank + 1))
        made.update(vectors[mine], ids[mine], progress=0.5)
        for name, value in alone.state_dict().items():
            assert torch.equal(made.state_dict()[name], value), name


def test_the_gradient_passes_straight_through() -> None:
    made = book()
    vectors = points(6, seed=2).requires_grad_()
    out = made(vectors)
    torch.testing.assert_close(out.vectors, made.codes[out.ids])
    (out.vectors * torch.arange(18.0).reshape(6, 3)).sum().backward()
    assert torch.equal(vectors.grad, torch.arange(18.0).reshape(6, 3))


def test_commitment_is_the_mean_over_vectors_and_dimensions() -> None:
    made = book()
    vectors = points(6, seed=2).requires_grad_()
    out = made(vectors)
    gap = vectors.detach() - made.codes[out.ids]
    assert float(out.commitment.detach()) == pytest.approx(float(gap.square().mean()))
    out.commitment.backward()
    torch.testing.assert_close(vectors.grad, 2 * gap / gap.numel())
    assert not list(made.parameters())


def test_cosine_codes_have_unit_length() -> None:
    made = book(config=replace(PLAIN, metric="cosine"))
    vectors = made.project(9 * points(40, seed=1))
    made.update(vectors, made.nearest(vectors), progress=1.0)
    torch.testing.assert_close(made.codes.norm(dim=1), torch.ones(4))
    assert torch.equal(made.nearest(vectors), (vectors @ made.codes.T).argmax(dim=1))


@pytest.mark.parametrize(("until", "healthy"), [(1.0, True), (0.0, False)])
def test_restarts_and_nothing_else_undo_a_collapse(until: float, healthy: bool) -> None:
    """All codes but one far from the data; a hundred steps later all or one are in use."""
    made = Codebook(16, CodebookConfig(dim=3, windows=(5, 5), restart_until=until))
    made.codes.copy_(50 + points(16))
    made.codes[0] = 0
    made.counts.fill_(1.0)
    made.sums.copy_(made.codes)
    for seed in range(100):
        vectors = points(100, seed=seed)
        ids = made.nearest(vectors)
        made.update(vectors, ids, progress=0.5)
    assert (perplexity(torch.bincount(ids, minlength=16)) > 10) is healthy


@pytest.mark.parametrize(("images", "codes"), [(100, 256), (20_000, 512), (1_281_167, 1024)])
def test_more_images_fill_more_codes(images: int, codes: int) -> None:
    assert codebook_size(images) == codes
