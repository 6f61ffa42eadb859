"""`contramask pretrain` and `contramask join`: a pre-training without any workflow tool."""

import argparse
import logging
from pathlib import Path
from typing import Any

_PRETRAIN = """\
Trains what a JSON file describes; where one lies, from its last checkpoint on. With several devices
one process is started for each. Started by torchrun, it is one of torchrun's processes:
torchrun --nproc-per-node 2 -m contramask.cli pretrain JOB.json"""
_JOIN = """\
Adds this machine to a training that runs on several (launch.nodes), with a process for each of its
devices. JOB.json and the folders in it lie where all machines see them."""


def add(commands: Any) -> None:
    """Register both sub-commands."""
    for name, help_text, text in (
        ("pretrain", "train an encoder as a JSON file says", _PRETRAIN),
        ("join", "take part in a training on several machines", _JOIN),
    ):
        parser = commands.add_parser(name, help=help_text, description=text)
        parser.add_argument("job", type=Path, metavar="JOB.json")
        parser.set_defaults(run=run if name == "pretrain" else join)


def run(options: argparse.Namespace) -> int:
    """Train, as one of a launcher's processes, alone, or by starting several."""
    from contramask.train.device import device_count
    from contramask.train.job import read_job, run_job
    from contramask.train.world import is_worker

    job = read_job(options.job)
    _log_to_stderr(is_worker())
    if is_worker() or job.launch.nodes * device_count(job.launch) == 1:
        run_job(job)
        return 0
    return _launched(job, options.job)


def join(options: argparse.Namespace) -> int:
    """Start this machine's processes."""
    from contramask.train.job import read_job

    job = read_job(options.job)
    if job.launch.nodes == 1:
        raise ValueError(
            f"{options.job} runs on one machine; set launch.nodes and launch.rendezvous before "
            "the training is started to let others join"
        )
    _log_to_stderr(worker=False)
    return _launched(job, options.job)


def _launched(job: Any, path: Path) -> int:
    """0, or what a shell expects of a process that a signal stopped."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    from contramask.train.launch import launch_processes

    try:
        launch_processes(job, path.resolve())
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    return 0


def _log_to_stderr(worker: bool) -> None:
    """Show what the library says; of several processes only the main one's progress."""
    from contramask.train.world import started_as_main

    quiet = worker and not started_as_main()
    logging.basicConfig(
        level=logging.WARNING if quiet else logging.INFO, format="%(levelname)s %(message)s"
    )
