"""Starting a pre-training as several processes, on this machine and on others."""

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from contramask.boxes.box_set import BoxSet
from contramask.data.store import Store
from contramask.failures import StageFailure
from contramask.models.tokenizer_bundle import TokenizerBundle
from contramask.results import RunInfo
from contramask.tracker import Tracker
from contramask.train.device import LaunchConfig, device_count
from contramask.train.job import PretrainJob, check_job, read_result, write_job
from contramask.train.pretrain import PretrainResult, pretrain
from contramask.train.pretrain_config import PretrainConfig

#: From SIGTERM to SIGKILL, a little less than what docs/launch asks of Slurm and Kubernetes.
_STOP_SECONDS = 110


def pretrain_on_devices(
    store: Store,
    boxes: BoxSet | None,
    config: PretrainConfig,
    run: RunInfo,
    launch: LaunchConfig,
    work: Path,
    tracker: Tracker,
    tokenizer: TokenizerBundle | None = None,
) -> PretrainResult:
    """`pretrain` on all devices that `launch` names: in this process if that is one.

    Otherwise the inputs are written into `work`, where the processes read them; what the main one
    logs is passed on to `tracker` as it comes. `work/job.json` is what `contramask join` takes.
    """
    if launch.nodes * device_count(launch) == 1:
        return pretrain(store, boxes, config, run, launch, work, tracker, tokenizer)
    folder = work.resolve()
    inputs, path = folder / "inputs", folder / "job.json"
    job = PretrainJob(
        store=store.folder.resolve(),
        output=folder / "result",
        pretrain=config,
        launch=launch,
        boxes=None if boxes is None else inputs / "boxes",
        tokenizer=None if tokenizer is None else inputs / "tokenizer",
        work=folder,
        seed=run.seed,
        experiment=run.experiment,
        config_hash=run.config_hash,
    )
    if boxes is not None:
        boxes.write(inputs / "boxes")
    if tokenizer is not None:
        tokenizer.write(inputs / "tokenizer")
    write_job(job, path)
    with _passed_on(job.output / "metrics.jsonl", tracker):
        launch_processes(job, path)
    result = read_result(job)
    shutil.rmtree(inputs, ignore_errors=True)
    shutil.rmtree(job.output)
    path.unlink()
    return result


def launch_processes(job: PretrainJob, path: Path) -> None:
    """Start a process for each device of this machine and wait until the training is over.

    path: the job's file, which every process reads. After a loss of one, all start again from the
    last checkpoint, `launch.restarts` times. On several machines each calls this. Raises what
    `check_job` finds before any is started, `StageFailure` with what the processes said, and
    torch's `SignalException` when stopped.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import api

    check_job(job)
    launch = job.launch
    single = launch.nodes == 1
    config = api.LaunchConfig(
        min_nodes=launch.nodes,
        max_nodes=launch.nodes,
        nproc_per_node=device_count(launch),
        run_id=job.run.experiment,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0" if single else str(launch.rendezvous),
        local_addr="localhost" if single else None,
        max_restarts=launch.restarts,
        monitor_interval=0.3,
        **_patience(api.LaunchConfig),
    )
    failed = job.work_folder / "failed.txt"
    failed.unlink(missing_ok=True)
    # A store that outlives the processes hands new ones the addresses of those that are gone.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with _usual_signals():
        try:
            api.elastic_launch(config, sys.executable)(
                "-m", "contramask.cli", "pretrain", str(path)
            )
        except ChildFailedError as error:
            if failed.is_file():
                raise StageFailure(failed.read_text(encoding="utf-8").strip()) from error
            raise StageFailure(_told(error)) from error


def _patience(kind: type) -> dict[str, Any]:
    """How long processes that were told to stop may take, where this torch lets one say so.

    Older ones kill them after 30 s, in which a large network's step and checkpoint do not fit.
    """
    known = {field.name for field in fields(kind)}
    return {"shutdown_timeout": _STOP_SECONDS} if "shutdown_timeout" in known else {}


@contextmanager
def _passed_on(path: Path, tracker: Tracker) -> Iterator[None]:
    """While held, hand every line another process writes to `path` on to the tracker."""
    path.unlink(missing_ok=True)
    ended = threading.Event()
    reader = threading.Thread(target=_follow, args=(path, tracker, ended), daemon=True)
    reader.start()
    try:
        yield
    finally:
        ended.set()
        reader.join(timeout=10)


def _follow(path: Path, tracker: Tracker, ended: threading.Event) -> None:
    lines, latest, last, sent = _Lines(path), 0, False, set[str]()
    while not last:
        last = ended.wait(1.0)  # the end comes after the last line: read once more
        for line in lines.new():
            values = json.loads(line)
            artifact = values.get("artifact")
            if artifact and artifact not in sent and Path(artifact).is_file():
                sent.add(artifact)
                tracker.artifact(Path(artifact))
            if "step" not in values:
                continue
            step = values.pop("step")
            values.pop("time")
            if step > latest:  # after a restart some steps are done once more
                latest = step
                tracker.log(values, step)


class _Lines:
    """Whole lines of a file that another process writes; anew from the first if it is replaced."""

    def __init__(self, path: Path) -> None:
        self.path, self.read, self.number = path, 0, 0

    def new(self) -> list[bytes]:
        """What came since the last call."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as stream:
            number = os.fstat(stream.fileno()).st_ino
            if number != self.number:
                self.number, self.read = number, 0
            stream.seek(self.read)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self.read += len(whole)
        return whole.splitlines()


def _told(error: "Exception") -> str:
    """What became of the process that failed first."""
    rank, first = error.get_first_failure()  # type: ignore[attr-defined]
    if first.exitcode == -9:  # SIGKILL, a name that Windows lacks
        how = "was killed, mostly because the machine's memory ran out: use smaller batches"
    elif first.exitcode < 0:
        how = f"was ended by {signal.Signals(-first.exitcode).name}"
    else:
        how = f"failed with exit status {first.exitcode}; its own words stand above"
    return (
        f"process {rank} of the training {how}, and so often that it was given up "
        "(launch.restarts). Start again: the run continues from its last checkpoint"
    )


@contextmanager
def _usual_signals() -> Iterator[None]:
    """Put back afterwards what torch's launcher sets: signals are the caller's again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")  # the latter two are not on Windows
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    usual = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
