"""Compiling changes nothing but speed, is kept where it pays, and stops nobody by failing."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contramask.methods.base import Batch, StepOutput
from contramask.train import compiling
from contramask.train.compiling import (
    Trial,
    compile_as_before,
    compile_now,
    compile_where_it_pays,
)
from contramask.train.device import Machine
from contramask.train.world import World

MACHINE = Machine(torch.device("cpu"), "fp32")
#: Traces and differentiates as the real back end does, and needs no compiler.
TRIAL = Trial("pretrain", World(), steps=1000, backend="aot_eager")


class Regression(nn.Module):
    """Has a batch norm, whose buffers a trial must not move, and remembers its latest output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 1))

    def forward(self, batch: Batch) -> StepOutput:
        found: Tensor = self.net(batch["x"])
        self.latest = found.detach()
        loss = (found[:, 0] - batch["y"]).square().mean()
        return StepOutput(loss, {"error": loss.detach()})


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 4, generator=generator)
    return {"x": x, "y": x.sum(1)}


def gradients(model: nn.Module, batch: Batch) -> list[Tensor]:
    model.zero_grad()
    model(batch).loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def is_compiled(model: nn.Module) -> bool:
    return model._compiled_call_impl is not None


def of_seconds(monkeypatch: pytest.MonkeyPatch, plain: float, compiled: float) -> None:
    """Passes take so long, by the clock of this test."""

    def seconds(model: nn.Module, *rest: Any) -> float:
        return compiled if is_compiled(model) else plain

    monkeypatch.setattr(compiling, "_seconds", seconds)


def test_a_compiled_model_gives_the_same_gradients_and_keeps_its_state(batch: Batch) -> None:
    plain, model = Regression(), Regression()
    assert compile_now(model, batch, MACHINE, TRIAL)
    assert is_compiled(model)
    assert all(p.grad is None for p in model.parameters())
    for (name, kept), fresh in zip(
        model.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        assert torch.equal(kept, fresh), name
    for one, other in zip(gradients(model, batch), gradients(plain, batch), strict=True):
        torch.testing.assert_close(one, other)
    assert torch.allclose(model.latest, plain.latest)


@pytest.mark.parametrize(
    ("plain", "compiled", "steps", "kept"),
    [
        (2.0, 1.5, 1000, True),  # long, and faster
        (2.0, 1.99, 1000, False),  # long, and not faster by enough
        (2.0, 0.1, 800, False),  # too short for the trial to pay
    ],
)
def test_it_is_kept_where_it_pays(
    monkeypatch: pytest.MonkeyPatch,
    batch: Batch,
    plain: float,
    compiled: float,
    steps: int,
    kept: bool,
) -> None:
    of_seconds(monkeypatch, plain, compiled)
    model = Regression()
    trial = replace(TRIAL, steps=steps)
    assert compile_where_it_pays(model, batch, MACHINE, trial) is kept
    assert is_compiled(model) is kept


@pytest.mark.parametrize(("wanted", "kept"), [(True, True), (False, False)])
def test_the_user_has_the_last_word(batch: Batch, wanted: Any, kept: bool) -> None:
    model = Regression()
    machine = replace(MACHINE, compile=wanted)
    assert compile_where_it_pays(model, batch, machine, replace(TRIAL, steps=1)) is kept
    assert is_compiled(model) is kept


def _broken(graph: Any, inputs: Any) -> Callable[..., Any]:
    raise RuntimeError("no C++ compiler\nand many lines more")


def test_where_it_fails_training_goes_on_without_it(
    batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    model = Regression()
    with caplog.at_level(logging.WARNING):
        broken = replace(TRIAL, backend=_broken)
        assert not compile_now(model, batch, MACHINE, broken)
    assert "torch.compile does not work here" in caplog.text
    assert "no C++ compiler" in caplog.text
    assert not is_compiled(model)
    assert len(gradients(model, batch)) == 6


@pytest.mark.parametrize(
    ("began", "wanted", "now", "warned"),
    [
        (True, "auto", True, False),
        (False, "auto", False, False),
        (True, False, False, True),
        (False, True, True, True),
        (True, True, True, False),
    ],
)
def test_a_continued_training_goes_on_as_it_began(
    batch: Batch,
    caplog: pytest.LogCaptureFixture,
    began: bool,
    wanted: Any,
    now: bool,
    warned: bool,
) -> None:
    model = Regression()
    machine = replace(MACHINE, compile=wanted)
    assert compile_as_before(began, model, batch, machine, TRIAL) is now
    assert is_compiled(model) is now
    assert ("changes how this training rounds" in caplog.text) is warned


def test_measured_passes_leave_no_trace(batch: Batch) -> None:
    model, fresh = Regression(), Regression()
    seconds = compiling._seconds(model, batch, MACHINE, TRIAL)
    assert seconds > 0
    assert all(p.grad is None for p in model.parameters())
    for kept, before in zip(model.state_dict().values(), fresh.state_dict().values(), strict=True):
        assert torch.equal(kept, before)
