"""One way to take a training step, and the promise that it learns what its float32 form learns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from contramask.methods.base import Batch, StepOutput
from contramask.train.device import Machine
from contramask.train.loop import train_step

#: Steps after which losses are compared; enough for weights to have moved.
CHECK_STEPS = 5
#: Largest relative difference to the float32 loss. bf16 differs by less than a thousandth.
CHECK_TOLERANCE = 0.01


class Trainee(Protocol):
    """A model in training."""

    waited: float  # seconds spent waiting for data, in all

    def step(self) -> Tensor:
        """Train on the next batch; the detached loss, still on the device."""


@dataclass(frozen=True)
class Variant:
    """`start` makes a fresh trainee, always from the same weights; `whose` names the program.

    `reference` is the name of the variant whose losses this one must follow; None where it is one
    itself, or trains on other batches.
    """

    whose: str  # ours, hf, lightly, timm
    setting: str
    start: Callable[[], Trainee]
    flops_per_image: float
    reference: str | None = None

    @property
    def name(self) -> str:
        """As tables print it."""
        return f"{self.whose}, {self.setting}"


@dataclass
class FixedBatches:
    """A trainee that goes round a few batches that are already on the device."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    machine: Machine
    batches: Sequence[Batch]
    waited: float = 0.0
    steps: int = 0

    def step(self) -> Tensor:
        """One step of the training loop."""
        batch = self.batches[self.steps % len(self.batches)]
        # Peers draw masks from torch's generator: the same ones in every precision.
        torch.manual_seed(self.steps)
        self.steps += 1
        output: StepOutput = train_step(self.model, batch, self.optimizer, self.machine, 0.5)
        return output.loss.detach()


def compiled(trainee: FixedBatches) -> FixedBatches:
    """The same trainee under torch.compile, which its first step pays for."""
    trainee.model.compile()
    return trainee


@dataclass(frozen=True)
class LossCheck:
    """Losses of the first steps against those of the same program in float32."""

    losses: list[float]
    reference: list[float]

    @property
    def difference(self) -> float:
        """The largest relative difference; not a number if a loss is not finite."""
        return max(
            (abs(own - true) / max(abs(true), 1e-12) for own, true in self._pairs()),
            key=lambda value: (value != value, value),  # a NaN counts as the largest
        )

    @property
    def passed(self) -> bool:
        """Whether the variant still computes what it says it computes."""
        return self.difference <= CHECK_TOLERANCE

    def _pairs(self) -> list[tuple[float, float]]:
        return list(zip(self.losses, self.reference, strict=True))


def first_losses(trainee: Trainee) -> list[float]:
    """Losses of the first `CHECK_STEPS` steps; they warm the trainee up, too."""
    return [float(trainee.step()) for _ in range(CHECK_STEPS)]
