"""Kills trainings at random moments, continues them and compares the bytes that come out.

python tests/train/kill.py --times 10 --methods mae
python tests/train/kill.py --signals TERM,INT    # which are answered with a checkpoint

Exit status 1 if any run ended elsewhere than the one that nobody disturbed, or did not go on where
it was saved: started anew, it would end in the same bytes.
"""

import argparse
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
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
TOO_LATE = "ended before it could be stopped"


def job_of(method: str, store: Path, output: Path, save_minutes: float) -> PretrainJob:
    pretrain = {
        "method": {"name": method, **METHODS[method]},
        "encoder": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
        "epochs": 32,
        "batch_size": 32,
        "warmup_epochs": 1,
        "log_every": 1,
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
        # What a shell starts in the background ignores Ctrl-C from birth.
        signal.signal(signal.SIGINT, signal.default_int_handler)
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


def logged(job: PretrainJob) -> dict[int, str]:
    """Whole lines of the log by step; each has the time at which it was written."""
    path = job.output / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return {values["step"]: line for line in lines if "step" in (values := json.loads(line))}


def disturbed(job: PretrainJob, number: int, after: int, pause: float) -> tuple[str, bool]:
    """Stop a training some time after a step and let another one end it.

    Returns what happened, and whether the other one went on where the first was saved: what that
    had logged until then is still there as it was, times included.
    """
    child, deadline = started(job), time.monotonic() + 120
    while max(logged(job), default=0) < after and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(pause)
    saved = number != signal.SIGKILL or (job.work_folder / "last.pt").exists()
    os.kill(child, number)
    _, status = os.waitpid(child, 0)
    before, last = logged(job), job.work_folder / "last.pt"
    step = torch.load(last, weights_only=True)["step"] if last.exists() else 0
    finished(job)
    if not status:
        return TOO_LATE, False
    kept = {key: line for key, line in before.items() if key <= step}
    same = all(logged(job)[key] == line for key, line in kept.items())
    told = f"stopped by {signal.Signals(number).name} after step {max(before)}"
    continued = same and len(kept) == step and (step > 0 or not saved)
    return f"{told}, {'continued' if continued else 'NOT CONTINUED'} from step {step}", continued


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--methods", default="mae")
    parser.add_argument("--signals", default="KILL", help="of KILL, TERM and INT")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = DatasetConfig(scenes=ScenesConfig(num_train=96, num_val=16), workers=1)
        build_dataset(config, folder / "build").store.write(folder / "store")
        equal = [
            verdict
            for method in options.methods.split(",")
            for verdict in tried(folder, method, options)
        ]
    sys.stdout.write(f"{equal.count(False)} of {len(equal)} differ or began anew\n")
    return 0 if all(equal) else 1


def tried(folder: Path, method: str, options: argparse.Namespace) -> Iterator[bool]:
    """Whether each disturbed training of a method goes on and ends as the undisturbed one."""
    dice, store = random.Random(options.seed), folder / "store"
    whole = job_of(method, store, folder / method / "whole", save_minutes=0)
    finished(whole)
    expected, curve = results(whole)
    total = int(curve["step"].iloc[-1])
    for name in options.signals.split(","):
        for number in range(options.times):
            # A killed run can only go on where it was saved; one asked to stop saves by itself.
            minutes = 0 if name == "KILL" else 1000
            for attempt in range(5):  # a busy machine may let a training end before it is stopped
                place = folder / method / f"{name}-{number}-{attempt}"
                job = job_of(method, store, place, minutes)
                after, pause = dice.randint(1, total // 4), dice.uniform(0, 0.02)
                told, continued = disturbed(job, getattr(signal, f"SIG{name}"), after, pause)
                if told != TOO_LATE:
                    break
            found, again = results(job)
            equal = found == expected and again.equals(curve)
            sys.stdout.write(f"{method} {number}: {told}, {'equal' if equal else 'DIFFERENT'}\n")
            yield equal and continued


if __name__ == "__main__":
    sys.exit(main())
