"""Timing in turns: every round times every variant once, so that a busy machine is busy for all."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from contramask.bench.memory import peak_memory
from contramask.bench.variant import LossCheck, Trainee, Variant, first_losses
from contramask.progress import track
from contramask.train.device import Machine

_MIN_TURN = 0.3  # seconds one turn lasts at least, so that clocks are precise enough
_CPU_SIDE, _CUDA_SIDE = 2048, 8192  # of the matrices by which the peak is measured


@dataclass
class Measured:
    """One variant's turns; every list has one entry a round."""

    variant: Variant
    losses: list[float]  # of the first steps
    check: LossCheck | None
    memory: int | None  # bytes at the peak of the first steps, weights and states included
    steps: list[int] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)  # seconds a step
    cpu: list[float] = field(default_factory=list)  # processor seconds a step, of all threads
    wait: list[float] = field(default_factory=list)  # share of the time spent waiting for data


@dataclass(frozen=True)
class Bench:
    """Everything measured: variants and the machine's matmul peaks, FLOP/s by round."""

    variants: list[Measured]
    peaks: dict[str, list[float]]


def run_bench(variants: Sequence[Variant], machine: Machine, rounds: int) -> Bench:
    """Warm all variants up, checking their losses, then time them in turns."""
    trainees: list[Trainee] = []
    measured: list[Measured] = []
    for variant in track(variants, "first steps", len(variants)):
        trainee, one = _warm_up(variant, measured, machine)
        trainees.append(trainee)
        measured.append(one)
    precisions = ("fp32", "bf16") if machine.precision == "bf16" else ("fp32",)
    peaks: dict[str, list[float]] = {precision: [] for precision in precisions}
    for _ in track(range(rounds), "timing", rounds):
        for name, rates in peaks.items():
            rates.append(_matmul_rate(machine, name))
        for trainee, one in zip(trainees, measured, strict=True):
            _take_turn(trainee, one, machine)
    return Bench(measured, peaks)


def _warm_up(
    variant: Variant, earlier: list[Measured], machine: Machine
) -> tuple[Trainee, Measured]:
    with peak_memory(machine) as peak:
        trainee = variant.start()
        losses = first_losses(trainee)
    check = None
    if variant.reference is not None:
        reference = next(m.losses for m in earlier if m.variant.name == variant.reference)
        check = LossCheck(losses, reference)
    return trainee, Measured(variant, losses, check, peak.bytes)


def _take_turn(trainee: Trainee, one: Measured, machine: Machine) -> None:
    estimate = one.wall[-1] if one.wall else _time(trainee, 1, machine)[0]
    steps = max(1, math.ceil(_MIN_TURN / max(estimate, 1e-9)))
    waited = trainee.waited
    wall, cpu = _time(trainee, steps, machine)
    one.steps.append(steps)
    one.wall.append(wall / steps)
    one.cpu.append(cpu / steps)
    one.wait.append((trainee.waited - waited) / wall)


def _time(trainee: Trainee, steps: int, machine: Machine) -> tuple[float, float]:
    """Wall and processor seconds of some steps."""
    _finish(machine)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        trainee.step()
    _finish(machine)
    return time.perf_counter() - wall, time.process_time() - cpu


def _finish(machine: Machine) -> None:
    if machine.device.type == "cuda":
        torch.cuda.synchronize()


def _matmul_rate(machine: Machine, precision: str) -> float:
    """FLOP/s of one large matrix product, the best of three."""
    side = _CUDA_SIDE if machine.device.type == "cuda" else _CPU_SIDE
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = torch.randn(2, side, side, device=machine.device).to(dtype)
    seconds = []
    for _ in range(3):
        _finish(machine)
        started = time.perf_counter()
        left @ right
        _finish(machine)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)
