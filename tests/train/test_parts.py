"""How many images of a batch fit is found by trying fewer."""

import torch
from torch import Tensor, nn

from contramask.methods.base import Batch, StepOutput
from contramask.train.device import Machine
from contramask.train.parts import fitting_batch

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


def test_halves_are_tried_until_one_fits() -> None:
    batch = {"view": torch.ones(32), "key": torch.arange(32)}
    assert fitting_batch(Room(9), batch, MACHINE) == 8
    assert fitting_batch(Room(0), batch, MACHINE) == 0
