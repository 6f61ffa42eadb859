"""What a run is going to do, computed and printed before it does it."""

import copy
import logging
import math
import time
from collections.abc import Mapping
from typing import Any

import rich
import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from contramask.methods.base import Batch
from contramask.train.backward import backward_of
from contramask.train.device import Machine

log = logging.getLogger(__name__)


def measure_step(
    model: nn.Module, batch: Batch, machine: Machine, parts: int = 1
) -> tuple[float, float]:
    """(matmul FLOPs an image, seconds) of one part of a training step, on a copy of the model.

    batch is that part, one of `parts`. FLOPs count forward and backward as they run here, two a
    multiply-add; the optimiser's are left out. The second of two passes is timed, so that set-up
    costs do not count.
    """
    trial, run = copy.deepcopy(model).train(), backward_of(model, parts)
    images = len(batch["key"])
    with FlopCounterMode(display=False) as counter:
        run(trial, [batch], machine)
    if machine.device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run(trial, [batch], machine)
    if machine.device.type == "cuda":
        torch.cuda.synchronize()
    return counter.get_total_flops() / images, time.perf_counter() - started


def count_parameters(module: nn.Module) -> int:
    """Trained parameters; frozen position tables and target networks are left out."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def duration(seconds: float) -> str:
    """Seconds as people write them: `48 s`, `3 min 20 s`, `5 h 12 min`."""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def print_plan(title: str, facts: Mapping[str, Any]) -> None:
    """Show the plan as a small table on the console that log lines use."""
    table = Table(title=title, show_header=False, title_justify="left", box=None, padding=(0, 1))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for name, value in facts.items():
        table.add_row(name, str(value))
    rich.get_console().print(table)
