"""Steps whose loss or gradient is not finite: they change nothing and are told by name."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from contramask.failures import StageFailure
from contramask.train.world import World

log = logging.getLogger(__name__)

_NAMED = 8  # images told in a message


class NonFiniteLoss(StageFailure):
    """Loss or gradient became NaN or infinite; the last good checkpoint is kept."""


class Guard:
    """Watches every step on the device; the host asks only when it reads numbers anyway.

    An optimiser that can (fused AdamW) leaves its weights and averages as they are in a step that
    is not finite. limit: how many such steps are left out before the training stops; where there
    may be any, target networks and batch norms' statistics are put back as they were, too.
    images_at gives the ids of the images of a step, counted from 0; folder takes the whole list.
    """

    images_at: Callable[[int], list[str]] | None = None
    folder: Path | None = None
    step = 0  # the update that is going on, from 0
    skipped = 0  # as of the last check

    def __init__(self, name: str, world: World, device: torch.device, limit: int) -> None:
        self.name, self.world, self.limit = name, world, limit
        self.bad = torch.zeros((), device=device)  # 1: the latest step is not finite
        self._count = torch.zeros((), dtype=torch.int64, device=device)
        self._first = torch.full((), -1, dtype=torch.int64, device=device)
        self._first_loss = torch.zeros((), dtype=torch.bool, device=device)
        self._beside, self._before = list[Tensor](), list[Tensor]()

    def resume(self, skipped: int) -> None:
        """Go on counting where an interrupted run stopped."""
        self.skipped = skipped
        self._count.fill_(skipped)

    @torch.no_grad()
    def remember(self, model: nn.Module) -> None:
        """Keep what a step changes beside the trained weights, if it may be left out."""
        if self.limit:
            fixed = [p for p in model.parameters() if not p.requires_grad]
            self._beside = [_here(value) for value in [*fixed, *model.buffers()]]
            self._before = [value.clone() for value in self._beside]

    @torch.no_grad()
    def undo(self) -> None:
        """Put that back if the step was not finite; the host does not need to know."""
        for value, before in zip(self._beside, self._before, strict=True):
            value.copy_(torch.where(self.bad > 0, before, value))
        self._beside, self._before = [], []

    @torch.no_grad()
    def watch(self, loss: Tensor, norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Look at a step's loss and gradient norm before its update."""
        lost = ~torch.isfinite(loss.detach())
        bad = (lost | ~torch.isfinite(norm)).float()
        bad = self.world.sum(bad).clamp_max(1)  # all processes skip, or none
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # how a GradScaler tells it
        new = (self._first < 0) & (bad > 0)
        self._first = torch.where(new, self.step, self._first)
        self._first_loss = torch.where(new, lost, self._first_loss)
        self._count += bad.long()
        self.bad = bad

    def check(self) -> None:
        """Raise `NonFiniteLoss` if more steps went wrong than may be left out.

        Within the limit, the first one since the last check is told as a warning.
        """
        count = int(self._count)
        if count == self.skipped:
            return
        first, new, self.skipped = int(self._first), count - self.skipped, count
        what = "the loss" if bool(self._first_loss) else "the gradient"
        self._first.fill_(-1)
        told = (
            f"{self.name}: {what} became NaN or infinite at step {first + 1}{self._images(first)}"
        )
        if count <= self.limit:
            log.warning("%s; %d left out, %d of %d so far", told, new, count, self.limit)
            return
        raise NonFiniteLoss(
            f"{told}. Lower the learning rate, set clip_grad, use launch.precision=fp32, or let "
            "such steps be left out (pretrain.nonfinite.skip_up_to); the last checkpoint is kept"
        )

    def _images(self, step: int) -> str:
        if self.images_at is None:
            return ""
        names = self.images_at(step)
        told = ", ".join(names[:_NAMED])
        if len(names) > _NAMED:
            told += f" and {len(names) - _NAMED} more"
            if self.folder is not None and self.world.is_main:
                path = self.folder / f"nonfinite-step-{step + 1}.txt"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(names) + "\n", encoding="utf-8")
                told += f", all in {path}"
        return f" (images {told})"


def check_finite(name: str, step: int, values: Mapping[str, float]) -> None:
    """Raise `NonFiniteLoss` with the names of values that are NaN or infinite after `step`."""
    bad = ", ".join(key for key, value in values.items() if not math.isfinite(value))
    if bad:
        raise NonFiniteLoss(
            f"{name}: {bad} became NaN or infinite before step {step + 1}; lower "
            "the learning rate, set clip_grad, or use launch.precision=fp32"
        )


def _here(value: Tensor) -> Tensor:
    """A tensor, or this process's shard of it."""
    return value.to_local() if isinstance(value, DTensor) else value.detach()
