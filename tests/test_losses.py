"""Losses against closed forms, and across two processes against one."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from contramask.losses import contrast_gauges, info_nce, normalise_patches, pixel_loss

TAU = 0.07


def alone(keys: Tensor) -> Tensor:
    """The gather of a single process."""
    return keys


def whole_batch(batch: int = 8, width: int = 6) -> tuple[Tensor, Tensor]:
    """The same queries and keys in every process that asks."""
    generator = torch.Generator().manual_seed(5)
    query = torch.randn(batch, width, generator=generator)
    return query, torch.randn(batch, width, generator=generator)


def test_normalised_patches_by_hand() -> None:
    done = normalise_patches(torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    # mean 2.5, unbiased variance 5/3: (1 - 2.5) / sqrt(5/3) = -1.161895
    expected = torch.tensor([[[-1.161895, -0.387298, 0.387298, 1.161895]]])
    torch.testing.assert_close(done, expected, rtol=1e-5, atol=1e-5)


def test_normalised_patches_have_zero_mean_and_unit_unbiased_variance() -> None:
    done = normalise_patches(torch.rand(3, 7, 48) * 5 + 2)
    assert done.mean(dim=-1).abs().max() < 1e-5
    torch.testing.assert_close(done.var(dim=-1), torch.ones(3, 7), rtol=1e-4, atol=1e-4)


def test_a_flat_patch_becomes_zero() -> None:
    assert torch.equal(normalise_patches(torch.full((1, 2, 12), 3.0)), torch.zeros(1, 2, 12))


def test_pixel_loss_is_the_mean_of_squares_in_float32() -> None:
    pred = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.bfloat16)
    loss = pixel_loss(pred, torch.tensor([[[0.0, 2.0], [3.0, 6.0]]]))
    assert loss.dtype == torch.float32
    assert float(loss) == (1 + 0 + 0 + 4) / 4


@pytest.mark.parametrize("count", [2, 64])
def test_constant_logits_cost_the_log_of_their_number(count: int) -> None:
    key = torch.ones(count, 5)
    loss = info_nce(torch.randn(count, 5), key, TAU, alone, 0)
    assert float(loss) == pytest.approx(math.log(count), abs=1e-5)


def test_random_unit_vectors_cost_a_little_more_than_chance() -> None:
    """ln K + 1 / (2 d tau^2): the logits are normal with variance 1 / (d tau^2)."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3000, 256, generator=generator)
    key = torch.randn(3000, 256, generator=generator)
    loss = float(info_nce(query, key, TAU, alone, 0))
    assert loss == pytest.approx(math.log(3000) + 1 / (2 * 256 * TAU**2), abs=0.06)


def test_matching_pairs_cost_least_and_swapped_pairs_most() -> None:
    axes = torch.eye(4)
    matched = float(info_nce(3 * axes, 0.1 * axes, 0.5, alone, 0))
    swapped = float(info_nce(axes, axes.roll(1, 0), 0.5, alone, 0))
    assert matched == pytest.approx(math.log1p(3 * math.exp(-2)), rel=1e-5)
    assert swapped == pytest.approx(2 + matched, rel=1e-5)


def test_each_query_chooses_among_the_keys_and_not_the_other_way_round() -> None:
    query = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    right = math.log1p(math.exp(-2))
    loss = float(info_nce(query, torch.eye(2), 0.5, alone, 0))
    assert loss == pytest.approx((right + 2 + right) / 2, rel=1e-5)


def test_the_temperature_divides_cosines() -> None:
    query, key = whole_batch()
    cosine = F.cosine_similarity(query[:, None], key[None], dim=-1)
    expected = F.cross_entropy(cosine / 0.2, torch.arange(8))
    torch.testing.assert_close(info_nce(query, key, 0.2, alone, 0), expected)


def test_gradient_flows_through_queries_only() -> None:
    query, key = (part.requires_grad_() for part in whole_batch())
    info_nce(query, key, TAU, alone, 0).backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0
    assert key.grad is None


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_positives_of_a_rank_stand_behind_those_of_the_ranks_before_it(rank: int) -> None:
    axes = torch.eye(6)
    mine = axes[2 * rank : 2 * rank + 2]
    loss = float(info_nce(mine, mine, 0.5, lambda _: axes, rank))
    assert loss == pytest.approx(math.log1p(5 * math.exp(-2)), rel=1e-5)
    wrong = float(info_nce(mine, mine, 0.5, lambda _: axes, (rank + 1) % 3))
    assert wrong == pytest.approx(2 + loss, rel=1e-5)


def test_the_loss_is_the_same_under_autocast() -> None:
    query, key = whole_batch(64, 32)
    expected = info_nce(query, key, TAU, alone, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(query, key, TAU, alone, 0), expected)


def test_two_processes_give_the_loss_and_the_gradients_of_one(tmp_path: Path) -> None:
    """Each process runs this very file with its rank (see the end)."""
    started = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()  # one that waits for another that failed
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    query, key = whole_batch()
    query.requires_grad_()
    loss = info_nce(query, key, TAU, alone, 0)
    loss.backward()
    # Data parallel training averages losses and gradients over the processes.
    torch.testing.assert_close((parts[0]["loss"] + parts[1]["loss"]) / 2, loss.detach())
    torch.testing.assert_close(torch.cat([p["grad"] for p in parts]) / 2, query.grad)


def test_gauges_of_perfect_pairs() -> None:
    gauges = contrast_gauges(2 * torch.eye(4), torch.eye(4))
    assert float(gauges["positive_cosine"]) == 1
    assert float(gauges["negative_cosine"]) == 0
    assert float(gauges["contrast_top1"]) == 1
    assert float(gauges["effective_rank"]) == pytest.approx(3, abs=1e-3)  # centring takes one


def test_gauges_tell_a_spread_from_a_collapse() -> None:
    spread = torch.randn(500, 64, generator=torch.Generator().manual_seed(0))
    collapsed = torch.ones(500, 64) + 1e-4 * spread
    wide, narrow = contrast_gauges(spread, spread), contrast_gauges(collapsed, collapsed)
    assert float(wide["feature_std"]) == pytest.approx(1, abs=0.02)
    assert float(narrow["feature_std"]) < 0.001
    assert float(wide["effective_rank"]) > 50
    assert float(narrow["negative_cosine"]) > 0.999


def test_a_line_of_keys_has_effective_rank_one() -> None:
    angle = torch.linspace(-0.01, 0.01, 20)
    key = torch.stack([torch.ones(20), angle, torch.zeros(20)], dim=1)
    assert float(contrast_gauges(key, key)["effective_rank"]) == pytest.approx(1, abs=0.05)


def test_gauges_of_broken_keys_are_numbers_not_errors() -> None:
    """So that the training can say which loss became NaN, instead of a decomposition failing."""
    gauges = contrast_gauges(torch.full((4, 3), math.nan), torch.full((4, 3), math.nan))
    assert math.isnan(gauges["positive_cosine"])
    assert math.isnan(gauges["feature_std"])


def one_process(rank: int, folder: Path) -> None:
    """The loss and the query gradient of one of two processes, saved as `<rank>.pt`."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2
    )

    def gather(keys: Tensor) -> Tensor:
        parts = [torch.empty_like(keys) for _ in range(2)]
        dist.all_gather(parts, keys)
        return torch.cat(parts)

    query, key = (part[4 * rank : 4 * rank + 4] for part in whole_batch())
    query = query.clone().requires_grad_()
    loss = info_nce(query, key, TAU, gather, rank)
    loss.backward()
    torch.save({"loss": loss.detach(), "grad": query.grad}, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    one_process(int(sys.argv[1]), Path(sys.argv[2]))
