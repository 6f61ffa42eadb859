"""The one training loop: pre-training, fine-tuning, segmentation and detection go through it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from contramask.methods.base import StepOutput
from contramask.progress import progress_bar
from contramask.tracker import Tracker
from contramask.train.backward import backward, reads_twice
from contramask.train.checkpoint import Keeper
from contramask.train.compiling import Trial, compile_as_before, compile_where_it_pays
from contramask.train.device import Machine, tell_change
from contramask.train.guard import Guard, check_finite
from contramask.train.interruption import Interruption
from contramask.train.meter import Meter
from contramask.train.sharding import can_be_gauged, in_full, is_sharded, restore, whole
from contramask.train.waiting import WaitingAdvice
from contramask.train.world import bare, current_world, parallel

log = logging.getLogger(__name__)

Batch = dict[str, Any]

_ASKED = 8  # steps between two times at which processes with shards ask whether to save or stop


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
    accumulate: int = 1  # equal parts a batch is cut into, to need less memory
    skip_up_to: int = 0  # steps that may be left out because they are not finite
    steady: bool = False  # all batches have the same shapes, so that compiling can pay
    #: Ids of the images of a step, counted from 0, for messages.
    images_at: Callable[[int], list[str]] | None = None


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
    with ExitStack() as stack:
        stack.callback(run.world.announce_end)
        stop = stack.enter_context(Interruption(run.world)) if keeper else None
        bar = stack.enter_context(progress_bar(hidden=not run.world.is_main))
        task = bar.add_task(plan.name, total=run.total, completed=run.step, note="")
        for epoch in range(run.step // source.steps_per_epoch, plan.epochs):
            for batch in run.batches(epoch):
                run.one_step(batch)
                bar.update(task, completed=run.step, note=run.note)
                if stop and run.told(stop.requested):
                    run.save_and_stop(stop)
            if not bar.console.is_terminal:  # a bar cannot be watched in a file; lines can
                note = f", {run.note}" if run.note else ""  # nothing was logged yet
                log.info("%s: epoch %d of %d%s", plan.name, epoch + 1, plan.epochs, note)
    return pd.DataFrame(run.rows)


def train_step(
    model: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    machine: Machine,
    progress: float,
    clip_grad: float | None = None,
    accumulate: int = 1,
    guard: Guard | None = None,
) -> StepOutput:
    """One update: forward, backward, optimiser, target networks; nothing in it waits for a device.

    `progress` in (0, 1] is the share of the training done after this step. A batch passes through
    in `accumulate` parts (`train.backward`); a guard is asked before the update.
    """
    if guard is not None:
        guard.remember(model)
    optimizer.zero_grad(set_to_none=True)
    output = backward(model, batch, machine, accumulate)
    if clip_grad is not None or guard is not None:
        norm = _gradient_norm(optimizer, clip_grad)
        if guard is not None:
            guard.watch(output.loss, norm, optimizer)
    optimizer.step()
    if after_step := getattr(bare(model), "after_step", None):
        after_step(progress)
    if guard is not None:
        guard.undo()
    return output


def _gradient_norm(optimizer: torch.optim.Optimizer, clip_grad: float | None) -> Tensor:
    """The norm of the whole gradient, which is clipped to `clip_grad` if that is given."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if clip_grad is not None:
        return in_full(torch.nn.utils.clip_grad_norm_(parameters, clip_grad))
    gradients = [p.grad for p in parameters if p.grad is not None]
    return in_full(torch.nn.utils.get_total_norm(gradients))


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
        self.tracker, self.keeper, self.world = tracker, keeper, current_world()
        self.step, self.rows, self.note = 0, list[dict[str, float]](), ""
        self.total = plan.epochs * source.steps_per_epoch
        self.meter, self.saved = Meter(), time.monotonic()
        self.guard = Guard(plan.name, self.world, plan.machine.device, plan.skip_up_to)
        self.guard.images_at, self.guard.folder = plan.images_at, keeper.folder if keeper else None
        self.waiting = WaitingAdvice(plan.name, source)
        self.compiled: bool | None = None if plan.steady else False  # None: not decided yet
        place = torch.device("cpu") if is_sharded(model) else plan.machine.device
        state = keeper.load(place) if keeper else None
        self.began_compiled = state.get("compiled") if state else None
        if state:
            self.step, self.rows = state["step"], state["rows"]
            self.meter = Meter.resumed(state["meter"])
            self.guard.resume(state.get("skipped", 0))
            tell_change(plan.name, state.get("precision"), plan.machine)
            restore(model, plan.optimizer, state)
            log.info("%s: continued from step %d of %d", plan.name, self.step, self.total)
        if keeper:
            tracker.rewind(plan.name, self.step)
        self.trained = parallel(model, self.world)

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
        if self.compiled is None:
            self.compiled = self._compile(batch)
        # Drop path and dropout draw from torch's generator: seeding it by step makes them, too,
        # independent of where a run was continued.
        torch.manual_seed(plan.seed * 1_000_003 + self.step + self.world.rank * 7_368_787)
        factor = plan.factor_at(self.step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        progress = (self.step + 1) / self.total
        guard, clip, parts = self.guard, plan.clip_grad, plan.accumulate
        guard.step = self.step
        output = train_step(
            self.trained, batch, optimizer, plan.machine, progress, clip, parts, guard
        )
        self.step += 1
        self.meter.add(output, guard.bad)
        last = self.step == self.total
        if last or self.step % plan.log_every == 0:
            self._log()
        if self.keeper and (self.world.is_main or is_sharded(self.model)):
            self._keep(self.keeper, last)

    def _compile(self, batch: Batch) -> bool:
        """Whether the model now runs compiled; a continued training goes on as it began."""
        model, plan = self.model, self.plan
        # Cached gradients take the methods apart, and shards are put together block by block.
        if reads_twice(model, plan.accumulate) or is_sharded(model):
            return False
        trial = Trial(plan.name, self.world, self.total - self.step, plan.accumulate)
        if self.began_compiled is None:
            return compile_where_it_pays(model, batch, plan.machine, trial)
        return compile_as_before(self.began_compiled, model, batch, plan.machine, trial)

    def told(self, yes: bool) -> bool:
        """What the main process wants: where weights are in shards, all save, and ask at times."""
        if not is_sharded(self.model):
            return yes
        if self.step % _ASKED:
            return False
        wanted = torch.tensor(float(yes and self.world.is_main), device=self.plan.machine.device)
        return bool(self.world.sum(wanted) > 0)

    def save_and_stop(self, stop: Interruption) -> None:
        """Write a checkpoint, then let the signal through; if it does not end the run, go on."""
        if self.keeper:
            self._save(self.keeper)
            log.warning("%s: asked to stop; saved at step %d", self.plan.name, self.step)
        if self.world.is_main:  # the others, where they saved too, wait for its end
            stop.deliver()

    def _log(self) -> None:
        meter, plan = self.meter, self.plan
        means = meter.means(self.world)  # waits for the device, so the time is taken after it
        elapsed = max(time.perf_counter() - meter.since, 1e-9)
        self.guard.check()  # before the gauges, which a NaN can make fail
        check_finite(plan.name, self.step, means)
        if plan.skip_up_to:
            means["skipped"] = float(self.guard.skipped)
        gauges = getattr(self.model, "gauges", None)
        if gauges and can_be_gauged(self.model):
            means |= {name: float(value) for name, value in gauges().items()}
        row = {
            "step": self.step,
            "epoch": self.step / self.source.steps_per_epoch,
            "lr": max(group["lr"] for group in plan.optimizer.param_groups),
            **means,
            "images_per_s": meter.steps * self.source.batch_size / elapsed,
            "data_wait": meter.waited / elapsed,
        }
        if self.world.is_main:
            self.waiting.check(row["data_wait"], elapsed)
        self.rows.append(row)
        named = {f"{plan.name}/{k}": v for k, v in row.items() if k not in ("step", "epoch")}
        self.tracker.log(named, self.step)
        self.note = f"loss {means['loss']:.4f}  {row['images_per_s']:.0f} img/s"
        self.meter = Meter()

    def _save_due(self) -> bool:
        return time.monotonic() - self.saved > 60 * self.plan.save_minutes

    def _keep(self, keeper: Keeper, last: bool) -> None:
        """Write what is due after a step; after the last one, too: results are not saved yet."""
        epoch, rest = divmod(self.step, self.source.steps_per_epoch)
        milestone = rest == 0 and epoch in keeper.milestones
        if self.told(self._save_due()) or last or milestone:
            self._save(keeper)
        if milestone and self.world.is_main:
            keeper.keep_milestone(epoch)

    def _save(self, keeper: Keeper) -> None:
        # Nothing non-finite is ever kept; a finite loss can have had an infinite gradient.
        self.guard.check()
        model = whole(self.model.state_dict())
        sums = {name: float(v.sum()) for name, v in model.items() if v.is_floating_point()}
        check_finite(self.plan.name, self.step, sums)
        optimizer = whole(self.plan.optimizer.state_dict())
        epoch, batch = divmod(self.step, self.source.steps_per_epoch)
        if self.world.is_main:
            keeper.save(
                {
                    "step": self.step,
                    "position": {"epoch": epoch, "batch": batch, "seed": self.plan.seed},
                    "rows": self.rows,
                    "meter": self.meter.state(),
                    "skipped": self.guard.skipped,
                    "compiled": bool(self.compiled),
                    "precision": self.plan.machine.precision,
                    "model": model,
                    "optimizer": optimizer,
                }
            )
        self.saved = time.monotonic()
