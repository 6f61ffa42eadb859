"""torch.compile where it pays: tried on the training's own step, and left where it does not."""

import logging
import statistics
import time
from dataclasses import dataclass

import torch
from torch import nn

from contramask.methods.base import Batch
from contramask.train.backward import backward
from contramask.train.device import Machine
from contramask.train.world import World

log = logging.getLogger(__name__)

#: Seconds that a training must still take for the trial to be worth its own minute or two.
WORTH = {"cpu": 1800.0, "cuda": 300.0}
#: A compiled pass must be this much faster, or the simpler program is kept.
GAIN = 1.02
_PASSES = 3


@dataclass(frozen=True)
class Trial:
    """What decides about compiling: the name for messages, the processes, the steps to come.

    parts: those a batch passes through in. backend: torch.compile's; inductor needs a C++ compiler,
    or Triton on CUDA.
    """

    name: str
    world: World
    steps: int
    parts: int = 1
    backend: str = "inductor"


def compile_where_it_pays(model: nn.Module, batch: Batch, machine: Machine, trial: Trial) -> bool:
    """Compile the model in place if `machine.compile` says so or, for auto, if it pays.

    It pays where the steps to come would take long (`WORTH`) and a compiled pass is found faster.
    Of several processes all decide alike. Weights and buffers are left as they were; what cannot be
    compiled stays as it was, with a line in the log.
    """
    if machine.compile is True:
        return compile_now(model, batch, machine, trial)
    if machine.compile is False or machine.device.type not in WORTH or not trial.steps:
        return False
    plain = _seconds(model, batch, machine, trial)
    if plain * trial.steps < WORTH[machine.device.type]:
        return False
    log.info("%s: trying torch.compile, which takes a minute or two", trial.name)
    if not compile_now(model, batch, machine, trial):
        return False
    compiled = _seconds(model, batch, machine, trial)
    told = f"{trial.name}: a compiled pass takes {compiled:.3f} s, a plain one {plain:.3f} s"
    if plain / compiled >= GAIN:
        log.info("%s: compiled", told)
        return True
    log.info("%s: not compiled", told)
    undo(model)
    return False


def compile_as_before(
    compiled: bool, model: nn.Module, batch: Batch, machine: Machine, trial: Trial
) -> bool:
    """Go on as a training began, compiled or not, so that it ends bit for bit as it would have.

    Only `machine.compile` = yes or no says otherwise, which rounds differently from here on.
    """
    wanted = compiled if machine.compile == "auto" else machine.compile
    if wanted != compiled:
        log.warning(
            "%s: launch.compile=%s changes how this training rounds from here on; it was %s",
            trial.name,
            "yes" if wanted else "no",
            "compiled" if compiled else "not compiled",
        )
    return wanted and compile_now(model, batch, machine, trial)


def compile_now(model: nn.Module, batch: Batch, machine: Machine, trial: Trial) -> bool:
    """Compile the model in place and run it once; False, with a warning, if that fails."""
    model.compile(backend=trial.backend)
    failure = None
    try:
        _passes(model, batch, machine, trial, 1)
    except (RuntimeError, OSError, ImportError) as error:  # as many kinds as there are back ends
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    failed = torch.tensor(float(failure is not None), device=machine.device)
    if not trial.world.sum(failed):
        return True
    log.warning(
        "%s: torch.compile does not work here (%s); training goes on without it. "
        "launch.compile=no leaves it out",
        trial.name,
        failure or "in another process",
    )
    undo(model)
    return False


def undo(model: nn.Module) -> None:
    """Make a compiled model an ordinary one again."""
    model._compiled_call_impl = None
    torch._dynamo.reset()


def _seconds(model: nn.Module, batch: Batch, machine: Machine, trial: Trial) -> float:
    """Median time of a step, of the slowest process's; the first, which sets things up, is free."""
    times = _passes(model, batch, machine, trial, 1 + _PASSES)[1:]
    mine = torch.tensor(statistics.median(times), device=machine.device)
    return float(trial.world.gather(mine[None]).max())


def _passes(
    model: nn.Module, batch: Batch, machine: Machine, trial: Trial, count: int
) -> list[float]:
    """Seconds of each of some forward and backward passes, which leave no trace in the model."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    times = []
    try:
        for _ in range(count):
            started = time.perf_counter()
            backward(model, batch, machine, trial.parts)
            if machine.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    finally:
        model.zero_grad(set_to_none=True)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return times
