"""The one training loop: pre-training, fine-tuning, segmentation and detection go through it."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from contramask.methods.base import StepOutput
from contramask.progress import progress_bar
from contramask.tracker import Tracker
from contramask.train.checkpoint import Keeper
from contramask.train.device import Machine
from contramask.train.waiting import WaitingAdvice

log = logging.getLogger(__name__)

Batch = dict[str, Any]


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; training stopped before the next checkpoint was written."""


class BatchSource(Protocol):
    """Batches by epoch; the same (epoch, step) always gives the same batch."""

    batch_size: int
    steps_per_epoch: int

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on, already on the device."""


@dataclass(frozen=True)
class TrainPlan:
    """How long and with what to train; `name` heads the metrics and the progress bar."""

    name: str
    epochs: int
    optimizer: torch.optim.Optimizer
    factor_at: Callable[[int], float]
    machine: Machine
    seed: int = 0
    clip_grad: float | None = None
    log_every: int = 20
    save_minutes: float = 10.0


@dataclass
class _Meter:
    """Sums on the device between two log lines, so that no step waits for the host."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0
    waited: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def add(self, output: StepOutput) -> None:
        values = {"loss": output.loss.detach(), **output.terms}
        for name, value in values.items():
            value = value.float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps += 1

    def means(self) -> dict[str, float]:
        return {name: float(total) / self.steps for name, total in self.sums.items()}

    def state(self) -> dict[str, Any]:
        """Plain values from which `resumed` goes on, as if the run had not been interrupted."""
        elapsed = time.perf_counter() - self.since
        return {**vars(self), "since": elapsed}

    @classmethod
    def resumed(cls, state: dict[str, Any]) -> "_Meter":
        return cls(**{**state, "since": time.perf_counter() - state["since"]})


def fit(
    model: nn.Module,
    source: BatchSource,
    plan: TrainPlan,
    tracker: Tracker,
    keeper: Keeper | None = None,
) -> pd.DataFrame:
    """Train `model` and return its curve: step, epoch, lr, loss, terms, images_per_s, data_wait.

    With a keeper, training continues from its checkpoint and ends bit for bit (on a processor)
    where it would have ended uninterrupted. `model.after_step(progress)` and `model.gauges()` are
    called where they exist. Raises `NonFiniteLoss`.
    """
    run = _Run(model, source, plan, tracker, keeper)
    with progress_bar() as bar:
        task = bar.add_task(plan.name, total=run.total, completed=run.step, note="")
        for epoch in range(run.step // source.steps_per_epoch, plan.epochs):
            for batch in run.batches(epoch):
                run.one_step(batch)
                bar.update(task, completed=run.step, note=run.note)
            if not bar.console.is_terminal:  # a bar cannot be watched in a file; lines can
                log.info("%s: epoch %d of %d, %s", plan.name, epoch + 1, plan.epochs, run.note)
    return pd.DataFrame(run.rows)


def train_step(
    model: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    progress: float,
    clip_grad: float | None = None,
) -> StepOutput:
    """One update: forward, backward, optimiser, target networks; nothing in it waits for a device.

    `progress` in (0, 1] is the share of the training done after this step.
    """
    with machine.autocast():
        output: StepOutput = model(batch)
    optimizer.zero_grad(set_to_none=True)
    output.loss.backward()  # type: ignore[no-untyped-call]
    if clip_grad is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, clip_grad)
    optimizer.step()
    if after_step := getattr(model, "after_step", None):
        after_step(progress)
    return output


class _Run:
    """The state of one call of `fit`."""

    def __init__(
        self,
        model: nn.Module,
        source: BatchSource,
        plan: TrainPlan,
        tracker: Tracker,
        keeper: Keeper | None,
    ) -> None:
        self.model, self.source, self.plan = model.train(), source, plan
        self.tracker, self.keeper = tracker, keeper
        self.step, self.rows, self.note = 0, list[dict[str, float]](), ""
        self.total = plan.epochs * source.steps_per_epoch
        self.meter, self.saved = _Meter(), time.monotonic()
        self.waiting = WaitingAdvice(plan.name, source)
        state = keeper.load(plan.machine.device) if keeper else None
        if state:
            self.step, self.rows = state["step"], state["rows"]
            self.meter = _Meter.resumed(state["meter"])
            model.load_state_dict(state["model"])
            plan.optimizer.load_state_dict(state["optimizer"])

    def batches(self, epoch: int) -> Iterator[Batch]:
        """One epoch's remaining batches; the time spent waiting for them is measured."""
        iterator = self.source.epoch(epoch, self.step % self.source.steps_per_epoch)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self.meter.waited += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def one_step(self, batch: Batch) -> None:
        """Forward, backward, update; log and save when due."""
        plan, optimizer = self.plan, self.plan.optimizer
        # Drop path and dropout draw from torch's generator: seeding it by step makes them, too,
        # independent of where a run was continued.
        torch.manual_seed(plan.seed * 1_000_003 + self.step)
        factor = plan.factor_at(self.step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        progress = (self.step + 1) / self.total
        output = train_step(self.model, batch, optimizer, plan.machine, progress, plan.clip_grad)
        self.step += 1
        self.meter.add(output)
        last = self.step == self.total
        if last or self.step % plan.log_every == 0:
            self._log()
        if self.keeper and not last and self._save_due():
            self._save(self.keeper)

    def _log(self) -> None:
        meter, plan = self.meter, self.plan
        means = meter.means()  # waits for the device, so the time is taken after it
        elapsed = max(time.perf_counter() - meter.since, 1e-9)
        self._check_finite(means)  # before the gauges, which a NaN can make fail
        if gauges := getattr(self.model, "gauges", None):
            means |= {name: float(value) for name, value in gauges().items()}
        row = {
            "step": self.step,
            "epoch": self.step / self.source.steps_per_epoch,
            "lr": max(group["lr"] for group in plan.optimizer.param_groups),
            **means,
            "images_per_s": meter.steps * self.source.batch_size / elapsed,
            "data_wait": meter.waited / elapsed,
        }
        self.waiting.check(row["data_wait"])
        self.rows.append(row)
        named = {f"{plan.name}/{k}": v for k, v in row.items() if k not in ("step", "epoch")}
        self.tracker.log(named, self.step)
        self.note = f"loss {means['loss']:.4f}  {row['images_per_s']:.0f} img/s"
        self.meter = _Meter()

    def _save_due(self) -> bool:
        return time.monotonic() - self.saved > 60 * self.plan.save_minutes

    def _check_finite(self, values: Mapping[str, float]) -> None:
        if all(map(math.isfinite, values.values())):
            return
        bad = ", ".join(name for name, value in values.items() if not math.isfinite(value))
        raise NonFiniteLoss(
            f"{self.plan.name}: {bad} became NaN or infinite between steps "
            f"{self.step - self.meter.steps} and {self.step}; lower the learning rate, set "
            "clip_grad, or use launch.precision=fp32"
        )

    def _save(self, keeper: Keeper) -> None:
        # Nothing non-finite is ever kept; a finite loss can have had an infinite gradient.
        self._check_finite(self.meter.means())
        weights = {name: float(p.detach().sum()) for name, p in self.model.named_parameters()}
        self._check_finite(weights)
        keeper.save(
            {
                "step": self.step,
                "rows": self.rows,
                "meter": self.meter.state(),
                "model": self.model.state_dict(),
                "optimizer": self.plan.optimizer.state_dict(),
            }
        )
        self.saved = time.monotonic()
