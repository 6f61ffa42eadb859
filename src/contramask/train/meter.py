"""What a training loop counts between two log lines."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from contramask.methods.base import StepOutput
from contramask.train.world import World


@dataclass
class Meter:
    """Sums on the device between two log lines, so that no step waits for the host."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    left_out: Tensor | int = 0
    steps: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def add(self, output: StepOutput, bad: Tensor) -> None:
        """Add a step's numbers, unless it is `bad` (1)."""
        values = {"loss": output.loss.detach(), **output.terms}
        for name, value in values.items():
            value = torch.where(bad > 0, 0.0, value.float())
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.left_out = self.left_out + bad
        self.steps += 1

    def means(self, world: World) -> dict[str, float]:
        """Over all steps that count and, as every process must ask, over all processes."""
        counted = max(self.steps - int(self.left_out), 1) * world.size
        totals = world.sum(torch.stack(list(self.sums.values()))).tolist()
        return {name: total / counted for name, total in zip(self.sums, totals, strict=True)}

    def state(self) -> dict[str, Any]:
        """Plain values from which `resumed` goes on, as if the run had not been interrupted."""
        elapsed = time.perf_counter() - self.since
        return {**vars(self), "since": elapsed}

    @classmethod
    def resumed(cls, state: dict[str, Any]) -> "Meter":
        """The meter whose `state` was kept."""
        return cls(**{**state, "since": time.perf_counter() - state["since"]})
