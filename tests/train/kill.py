"""Kills trainings at random moments, continues them and compares the bytes that come out.

python tests/train/kill.py --times 10 --methods mae
python tests/train/kill.py --signal TERM    # which is answered with a checkpoint

Exit status 1 if any run ended elsewhere than the one that nobody disturbed.
"""

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.results import StageOutput
from contramask.train.job import PretrainJob, run_job
from contramask.typed import parse

SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2}
METHODS = {
    "mae": {"decoder": SMALL},
    "cmae": {
        "decoder": SMALL,
        "feature_decoder": SMALL,
        "head_hidden_dim": 16,
        "head_out_dim": 8,
    },
    "cmae_mao": {"decoder": SMALL, "head_hidden_dim": 16, "head_out_dim": 8},
    "conmim": {"head_hidden_dim": 16, "head_out_dim": 8},
    "supmim": {"decoder": SMALL, "target": {"name": "pixels"}},
}
TIMES = ["images_per_s", "data_wait"]


def job_of(method: str, store: Path, output: Path, save_minutes: float) -> PretrainJob:
    pretrain = {
        "method": {"name": method, **METHODS[method]},
        "encoder": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
        "epochs": 8,
        "batch_size": 32,
        "warmup_epochs": 1,
        "log_every": 5,
        "save_minutes": save_minutes,
    }
    launch = {"device": "cpu", "precision": "fp32"}
    values = {"store": store, "output": output, "pretrain": pretrain, "launch": launch}
    return parse(PretrainJob, values, "job")


def started(job: PretrainJob) -> int:
    """The process id of a training in a process of its own."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        run_job(job)
        code = 0
    finally:
        os._exit(code)


def finished(job: PretrainJob) -> None:
    _, status = os.waitpid(started(job), 0)
    if status:
        raise SystemExit(f"a training failed with status {status}")


def results(job: PretrainJob) -> tuple[bytes, pd.DataFrame]:
    curve = StageOutput.read(job.output / "pretrain").tables["curve"].drop(columns=TIMES)
    return (job.output / "encoder" / "encoder.safetensors").read_bytes(), curve


def disturbed(job: PretrainJob, number: int, after: float) -> str:
    """Stop a training some seconds after its start and let another one end it."""
    child = started(job)
    deadline = time.monotonic() + after
    while time.monotonic() < deadline and not (job.output / "encoder").exists():
        time.sleep(0.005)
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    last = job.work_folder / "last.pt"
    step = torch.load(last, weights_only=True)["step"] if last.exists() else 0
    how = "ended before" if not status else f"stopped by {signal.Signals(status & 127).name}"
    finished(job)
    return f"{how} after {after:.2f} s, continued from step {step}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--methods", default="mae")
    parser.add_argument("--signal", default="KILL", choices=("KILL", "TERM", "INT"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    dice, wrong = random.Random(options.seed), 0
    # A killed run can only go on where it was saved; one that is asked to stop saves by itself.
    save_minutes = 0 if options.signal == "KILL" else 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = DatasetConfig(scenes=ScenesConfig(num_train=96, num_val=16), workers=1)
        build_dataset(config, folder / "build").store.write(folder / "store")
        for method in options.methods.split(","):
            whole = job_of(method, folder / "store", folder / method / "whole", save_minutes)
            began = time.monotonic()
            finished(whole)
            seconds = time.monotonic() - began
            expected, curve = results(whole)
            for number in range(options.times):
                output = folder / method / str(number)
                job = job_of(method, folder / "store", output, save_minutes)
                told = disturbed(
                    job, getattr(signal, f"SIG{options.signal}"), dice.uniform(0.1, 0.95) * seconds
                )
                found, again = results(job)
                equal = found == expected and again.equals(curve)
                wrong += not equal
                sys.stdout.write(
                    f"{method} {number}: {told}, {'equal' if equal else 'DIFFERENT'}\n"
                )
    sys.stdout.write(f"{wrong} of {options.times * len(options.methods.split(','))} differ\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
