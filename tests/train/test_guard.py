"""Steps that are not finite: told with their images, left out within a limit."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from contramask.ema import ema_update, frozen_copy
from contramask.methods.base import Batch, StepOutput
from contramask.train.device import Machine
from contramask.train.guard import Guard, NonFiniteLoss, check_finite
from contramask.train.loop import train_step
from contramask.train.world import World

CPU = torch.device("cpu")


def watched(guard: Guard, losses: list[float], norm: float = 1.0) -> torch.nn.Parameter:
    """A weight after one update for each loss, with gradient 1 each."""
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.AdamW([weight], lr=0.1, weight_decay=0, fused=True)
    for step, loss in enumerate(losses):
        guard.step = step
        weight.grad = torch.ones(())
        guard.watch(torch.tensor(loss), torch.tensor(norm), optimizer)
        optimizer.step()
    return weight


def test_finite_steps_pass() -> None:
    guard = Guard("pretrain", World(), CPU, 0)
    weight = watched(guard, [1.0, 2.0])
    guard.check()
    assert float(weight) == pytest.approx(0.8)


def test_a_step_that_is_not_finite_changes_nothing_and_is_told(tmp_path: Path) -> None:
    guard = Guard("pretrain", World(), CPU, 0)
    guard.images_at, guard.folder = (lambda step: [f"{step}-{i}.png" for i in range(10)]), tmp_path
    weight = watched(guard, [1.0, float("nan"), 1.0])
    assert float(weight) == pytest.approx(0.8)
    with pytest.raises(
        NonFiniteLoss,
        match=r"the loss became NaN or infinite at step 2 \(images 1-0\.png, .* and 2 more, all in",
    ):
        guard.check()
    names = (tmp_path / "nonfinite-step-2.txt").read_text().split()
    assert names == [f"1-{i}.png" for i in range(10)]


def test_a_bad_gradient_behind_a_finite_loss_is_told_as_such() -> None:
    guard = Guard("pretrain", World(), CPU, 0)
    weight = watched(guard, [1.0], norm=float("inf"))
    assert float(weight) == 1
    with pytest.raises(NonFiniteLoss, match="the gradient became NaN or infinite at step 1"):
        guard.check()


def test_steps_are_left_out_up_to_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard("pretrain", World(), CPU, 2)
    with caplog.at_level(logging.WARNING):
        watched(guard, [float("inf"), 1.0])
        guard.check()
    assert "1 left out, 1 of 2 so far" in caplog.text
    resumed = Guard("pretrain", World(), CPU, 2)
    resumed.resume(guard.skipped)
    watched(resumed, [float("inf")])
    resumed.check()
    watched(resumed, [float("inf")])
    with pytest.raises(NonFiniteLoss, match="at step 1"):
        resumed.check()


class Followed(nn.Module):
    """A layer with a batch norm, and an average that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.average = frozen_copy(self.online)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch) -> StepOutput:
        self.steps += 1
        return StepOutput(self.online(batch["view"]).square().mean() + batch["more"])

    def after_step(self, progress: float) -> None:
        ema_update(self.average, self.online, 0.5)


def stepped(views: list[float], limit: int) -> list[dict[str, Tensor]]:
    """All weights and buffers before and after one step for each value of the images."""
    torch.manual_seed(0)
    model = Followed().train()
    optimizer = torch.optim.AdamW(model.online.parameters(), lr=0.1, fused=True)
    guard = Guard("pretrain", World(), CPU, limit)
    found = [copy.deepcopy(model.state_dict())]
    for step, value in enumerate(views):
        guard.step = step
        batch = {"view": torch.randn(8, 4) * value, "more": torch.zeros(())}
        train_step(model, batch, optimizer, Machine(CPU, "fp32"), 0.5, guard=guard)
        found.append(copy.deepcopy(model.state_dict()))
    return found


def test_a_step_that_is_left_out_leaves_statistics_and_averages_as_they_were() -> None:
    start, first, left_out, last = stepped([1.0, float("nan"), 1.0], limit=1)
    for name, value in first.items():
        assert torch.equal(left_out[name], value), name
        assert torch.isfinite(last[name]).all(), name
        if "average.1." not in name or "weight" in name or "bias" in name:  # statistics stay there
            assert not torch.equal(start[name], value), name
            assert not torch.equal(last[name], value), name


def test_where_no_step_may_be_left_out_nothing_is_copied() -> None:
    *_, left = stepped([1.0, float("nan")], limit=0)
    assert left["online.1.running_mean"].isnan().all()


def test_what_is_not_finite_is_named() -> None:
    check_finite("pretrain", 4, {"loss": 1.0})
    with pytest.raises(NonFiniteLoss, match=r"b, c became NaN or infinite before step 5"):
        check_finite("pretrain", 4, {"a": 1.0, "b": float("nan"), "c": float("inf")})
