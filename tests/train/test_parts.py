"""Which cuts of a batch are allowed, and how many images of one fit."""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from contramask.methods.base import Batch, StepOutput
from contramask.train.device import Machine
from contramask.train.loop import BatchSource
from contramask.train.parts import (
    check_parts,
    finer_cuts,
    fitting_batch,
    fitting_parts,
    largest_step,
    pass_note,
    what_fits,
)
from contramask.train.world import World

SCRIPT = Path(__file__).with_name("two_processes.py")
_spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
assert _spec is not None and _spec.loader is not None  # noqa: PT018
two_processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(two_processes)
METHODS = two_processes.METHODS
MACHINE = Machine(torch.device("cpu"), "fp32")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_equal_parts(name: str) -> None:
    method, loader = two_processes.make(METHODS[name], World())
    for parts in (1, 2, 3, 12):
        check_parts(method, loader.batch_size, 1, parts)


def test_unequal_parts_are_refused() -> None:
    method, loader = two_processes.make(METHODS["mae"], World())
    with pytest.raises(ValueError, match="cannot be cut into 5 equal parts"):
        check_parts(method, loader.batch_size, 1, 5)
    with pytest.raises(ValueError, match="cannot be shared equally by 5 processes"):
        two_processes.make(METHODS["mae"], World(0, 5))


def test_parts_without_one_of_both_kinds_of_images_are_refused() -> None:
    config = replace(METHODS["supmim"], mode="split", split_share=0.25)
    method, loader = two_processes.make(config, World())
    check_parts(method, loader.batch_size, 1, 3)
    with pytest.raises(ValueError, match=r"accumulate 4 .* split masks 3 of 12 images"):
        check_parts(method, loader.batch_size, 1, 4)
    assert finer_cuts(method, 12, 1) == [2]


def test_the_plan_says_what_a_pass_is_and_what_it_costs() -> None:
    method, loader = two_processes.make(METHODS["cmae"], World())
    assert pass_note(method, loader, 1) == "12 (1 processes x 1 parts)"
    assert pass_note(method, loader, 3) == "4 (1 processes x 3 parts, each read twice)"
    method, loader = two_processes.make(METHODS["mae"], World())
    assert pass_note(method, loader, 3) == "4 (1 processes x 3 parts)"


class Room(nn.Module):
    """A network with room for so many images."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images, self.weight = images, nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch) -> StepOutput:
        values: Tensor = batch["view"]
        if len(values) > self.images:
            raise RuntimeError("whatever a library says that got no memory")
        return StepOutput((self.weight * values).mean())


class Lists:
    """Batches of images and of a list with an entry an image."""

    batch_size, steps_per_epoch = 32, 1

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield {"view": torch.ones(32), "targets": [{}] * 32}


class NoRoom(Lists):
    """Not even a batch can be made."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        raise MemoryError


def test_a_stage_is_told_its_own_key() -> None:
    def told(images: int, source: BatchSource) -> str:
        return largest_step(Room(images), source, MACHINE, "stage.batch_size")

    assert told(9, Lists()) == (
        "32 images a step are too many, 8 fitted in a trial: set stage.batch_size to 8"
    )
    assert "so are 2. Use a smaller encoder" in told(1, Lists())
    assert told(9, NoRoom()).endswith("set stage.batch_size to less")


def test_multiples_are_tried() -> None:
    batch = {"view": torch.ones(28)}
    assert fitting_batch(Room(7), batch, MACHINE) == 7
    assert fitting_batch(Room(7), batch, MACHINE, least=2) == 6
    assert fitting_batch(Room(1), batch, MACHINE, least=2) == 0


def test_finer_cuts_are_tried_until_one_fits() -> None:
    batch = {"view": torch.ones(32), "key": torch.arange(32)}
    assert fitting_parts(Room(9), batch, MACHINE, [2, 4, 8]) == 4
    assert fitting_parts(Room(0), batch, MACHINE, [2, 4, 8]) == 0


def test_finer_cuts_are_equal_ones() -> None:
    method, _ = two_processes.make(METHODS["cmae"], World())
    assert finer_cuts(method, 12, 1) == [2, 4, 12]
    assert finer_cuts(method, 12, 2) == [4, 12]
    assert finer_cuts(method, 1, 1) == []


@pytest.mark.parametrize(("name", "price"), [("cmae", True), ("mae", False)])
def test_the_advice_names_parts_that_fitted_and_their_price(
    name: str, price: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, loader = two_processes.make(METHODS[name], World())
    read = method.encoder.forward_tokens

    def cramped(view: Tensor, ids: Tensor | None = None) -> Tensor:
        if len(view) > 3:
            raise RuntimeError("out of memory")
        return read(view, ids)

    monkeypatch.setattr(type(method.encoder), "forward_tokens", lambda _, *given: cramped(*given))
    advice = what_fits(method, loader, MACHINE, 1)
    assert "12 images a pass are too many, 3 fitted in a trial: set pretrain.accumulate" in advice
    assert "accumulate to 4, which gives the same training" in advice
    assert "or pretrain.batch_size to 3" in advice
    assert ("one more forward pass of the online branch" in advice) == price
