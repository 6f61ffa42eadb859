"""What a run announces before it starts."""

import pytest
import torch
from torch import nn

from contramask.methods.base import Batch, StepOutput
from contramask.train.device import Machine
from contramask.train.plan import (
    count_parameters,
    duration,
    measure_step,
    print_plan,
    training_tflop,
)

CPU = Machine(torch.device("cpu"), "fp32")


class Linear(nn.Module):
    """A method of one matrix product and a batch norm, whose FLOPs can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 10, bias=False)
        self.norm = nn.BatchNorm1d(10)

    def forward(self, batch: Batch) -> StepOutput:
        return StepOutput(self.norm(self.layer(batch["view"])).square().mean())


def test_flops_count_forward_and_backward() -> None:
    batch = {"view": torch.randn(8, 6), "key": torch.arange(8)}
    flops, seconds = measure_step(Linear(), batch, CPU)
    # Forward and the weights' gradient, two operations a multiply-add; pixels need no gradient.
    assert flops == 2 * (2 * 6 * 10)
    assert seconds > 0


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = Linear().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_step(model, {"view": torch.randn(8, 6), "key": torch.arange(8)}, CPU)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training


def test_only_trained_parameters_count() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5).requires_grad_(False))
    assert count_parameters(model) == 16


def test_a_training_costs_what_its_steps_cost() -> None:
    # 110 images in batches of 20: five steps an epoch, ten images left out.
    plan = {"images": 110, "epochs": 2, "steps": 10, "batch size": 20, "GFLOP per image": 0.5}
    assert training_tflop(plan) == 0.1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (48, "48 s"),
        (59.5, "1 min 0 s"),
        (200, "3 min 20 s"),
        (18_720, "5 h 12 min"),
        (100_000, "27 h 46 min"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_plan_is_printed_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan("pre-training x", {"epochs": 3, "estimated time": "48 s"})
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines == [["pre-training", "x"], ["epochs", "3"], ["estimated", "time", "48", "s"]]
