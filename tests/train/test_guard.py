"""Steps that are not finite: told with their images, left out within a limit."""

import logging
from pathlib import Path

import pytest
import torch

from contramask.train.guard import Guard, NonFiniteLoss
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
