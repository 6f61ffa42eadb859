"""How many images of a batch fit is found by trying fewer."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from contramask.methods.base import Batch, StepOutput
from contramask.train.device import Machine
from contramask.train.loop import BatchSource
from contramask.train.parts import fitting_batch, largest_step

MACHINE = Machine(torch.device("cpu"), "fp32")


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


def test_halves_are_tried_until_one_fits() -> None:
    batch = {"view": torch.ones(32), "key": torch.arange(32)}
    assert fitting_batch(Room(9), batch, MACHINE) == 8
    assert fitting_batch(Room(0), batch, MACHINE) == 0
