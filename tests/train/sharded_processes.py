"""Run by torchrun in a test: the training of two processes that share out every network.

python -m torch.distributed.run ... sharded_processes.py FOLDER [stop]. FOLDER/<method>/ gets the
checkpoints of trainings in shards: `whole/last.pt` of a complete one and, for some, `begun/last.pt`
of one that began in a single process and `half/last.pt` of one that did not come to its end. With
`stop`, the main process is told to stop at step 3, and FOLDER/last.pt is what it saved.
"""

import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from contramask.methods import MethodConfig
from contramask.tracker import NullTracker
from contramask.train.checkpoint import Keeper
from contramask.train.device import Machine
from contramask.train.loop import TrainPlan, fit
from contramask.train.optim import adamw, decay_groups
from contramask.train.sharding import sharded
from contramask.train.world import current_world, joined

SCRIPT = Path(__file__).with_name("two_processes.py")
_spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
assert _spec is not None and _spec.loader is not None  # noqa: PT018
two_processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(two_processes)
CPU = torch.device("cpu")
METHODS: dict[str, MethodConfig] = {
    **{name: two_processes.METHODS[name] for name in ("mae", "cmae", "conmim", "supmim")},
    "cmae_mao": replace(two_processes.METHODS["cmae_mao"], con_site="sdmae_branch"),
}
CONTINUED = ("mae", "cmae")
EPOCHS = 5  # of two steps
PARTS = {"mae": 2, "supmim": 2}  # into which a process cuts its half, where that is allowed


class Doubled:
    """A source whose images are float64."""

    def __init__(self, loader) -> None:  # type: ignore[no-untyped-def]
        self.loader = loader
        self.batch_size, self.steps_per_epoch = loader.batch_size, loader.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0):  # type: ignore[no-untyped-def]
        for batch in self.loader.epoch(epoch, start):
            yield {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


class Left(Exception):
    """The training was left here."""


def leave() -> None:
    """End a training as an error would."""
    raise Left


def stop_main() -> None:
    """Tell the main process to stop, as a machine's owner does."""
    if current_world().is_main:
        os.kill(os.getpid(), signal.SIGTERM)


def train(name: str, folder: Path, at_step_3: Callable[[], None] | None = None) -> None:
    """All epochs in float64, in shards if there are processes to share."""
    method, loader = two_processes.make(METHODS[name], current_world())
    usual = torch.Tensor.float
    # Not of truth values: what tells fused AdamW to leave a step out must be float32.
    torch.Tensor.float = lambda t: t.double() if t.is_floating_point() else usual(t)  # type: ignore
    try:
        _train(name, method.double(), Doubled(loader), folder, at_step_3)
    except Left:
        pass
    finally:
        torch.Tensor.float = usual  # type: ignore[method-assign]


def _train(name, method, source, folder, at_step_3) -> None:  # type: ignore[no-untyped-def]
    world = current_world()
    if world.size > 1:
        method = sharded(method, world, CPU)
    plan = TrainPlan(
        name="test",
        epochs=EPOCHS,
        optimizer=adamw(decay_groups(method, 0.05, "one_dim"), 0.01),
        factor_at=lambda step: 1 / (1 + step),
        machine=Machine(CPU, "fp32"),
        clip_grad=0.5,
        log_every=1,
        accumulate=PARTS.get(name, 1),
    )
    usual = method.after_step

    def stepped(progress: float) -> None:
        usual(progress)
        if at_step_3 and round(progress * 2 * EPOCHS) == 3:
            at_step_3()

    method.after_step = stepped
    keeper = Keeper(folder, {"name": "test"}, milestones=(1,))
    fit(method, source, plan, NullTracker(), keeper)


if __name__ == "__main__":
    torch.set_num_threads(1)
    target = Path(sys.argv[1])
    with joined("cpu"):
        if sys.argv[2:] == ["stop"]:
            train("cmae", target, stop_main)
        else:
            for name in METHODS:
                train(name, target / name / "whole")
                if name in CONTINUED:
                    train(name, target / name / "begun")
                    train(name, target / name / "half", leave)
