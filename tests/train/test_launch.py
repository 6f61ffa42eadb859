"""Several processes: one of them is lost, all start again, and the training ends as if none had."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.results import StageOutput
from contramask.tracker import JsonLinesTracker, NullTracker
from contramask.train.job import read_job
from contramask.train.launch import _passed_on, _patience, _usual_signals, launch_processes

PRETRAIN = {
    "method": {"name": "mae", "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2}},
    "encoder": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "epochs": 40,
    "batch_size": 32,
    "log_every": 20,
    "save_minutes": 0,
}


def test_signals_are_put_back_also_where_there_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = signal.getsignal(signal.SIGTERM)
    for name in ("SIGHUP", "SIGQUIT", "SIGKILL"):  # Windows has none of them
        monkeypatch.delattr(signal, name, raising=False)
    with _usual_signals():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == usual


class Passed(NullTracker):
    """What came through."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.files: list[str] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.steps.append(step)

    def artifact(self, path: Path) -> None:
        self.files.append(path.name)


def test_what_a_restarted_process_says_again_is_passed_on_once(tmp_path: Path) -> None:
    path, found = tmp_path / "metrics.jsonl", Passed()
    (tmp_path / "views.npz").touch()
    with _passed_on(path, found):
        first = JsonLinesTracker(path)
        first.artifact(tmp_path / "views.npz")
        for step in (10, 20, 30):
            first.log({"pretrain/loss": 0.123456789}, step)
        deadline = time.monotonic() + 30
        while found.steps != [10, 20, 30] and time.monotonic() < deadline:
            time.sleep(0.05)
        again = JsonLinesTracker(path)
        again.rewind("pretrain", 10)
        for step in (20, 30, 40):
            again.log({"pretrain/loss": 0.1}, step)
    assert found.steps == [10, 20, 30, 40]
    assert found.files == ["views.npz"]


def start(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "contramask.cli", "pretrain", str(path)]
    said = path.with_suffix(".log").open("w", encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=said, stderr=said, text=True)


def workers_of(parent: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(parent.pid).children()
    return [child for child in children if "contramask.cli" in " ".join(child.cmdline())]


def test_a_lost_process_costs_a_restart_and_nothing_else(tiny_store: Store, tmp_path: Path) -> None:
    job = {
        "store": str(tiny_store.folder),
        "output": "out",
        "pretrain": PRETRAIN,
        "launch": {"device": "cpu", "precision": "fp32", "devices": 2, "restarts": 1},
    }
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    parent = start(path)
    deadline = time.monotonic() + 300
    while not list((tmp_path / "out" / "work").glob("*.pt")):
        assert parent.poll() is None, path.with_suffix(".log").read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers_of(parent)[-1].kill()
    assert parent.wait(timeout=300) == 0
    said = path.with_suffix(".log").read_text(encoding="utf-8")
    assert "continued from step" in said
    curve = StageOutput.read(tmp_path / "out" / "pretrain").tables["curve"]
    assert curve["step"].tolist() == list(range(20, 121, 20))  # three batches an epoch
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    assert EncoderBundle.read(tmp_path / "out" / "encoder").manifest["method"] == "mae"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"launch": {"device": "cpu", "devices": 3}}, "a batch of 32 images cannot be shared"),
        ({"store": "nowhere"}, "nowhere"),
        ({"pretrain": {**PRETRAIN, "batch_size": 128}}, "cannot be filled from 96 images"),
        ({"pretrain": {**PRETRAIN, "accumulate": 3}}, "equal parts"),
        ({"pretrain": {**PRETRAIN, "encoder": {"patch_size": 5}}}, "patches of 5 px"),
    ],
)
def test_what_all_processes_would_refuse_is_told_before_any_is_started(
    tiny_store: Store,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch.distributed.launcher import api

    def started(*given: object) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr(api, "elastic_launch", started)
    launch = {"device": "cpu", "precision": "fp32", "devices": 2}
    job = {"store": str(tiny_store.folder), "output": "out", "pretrain": PRETRAIN}
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**job, "launch": launch, **changes}), encoding="utf-8")
    with pytest.raises((ValueError, OSError), match=message):
        launch_processes(read_job(path), path)


def test_processes_have_time_to_save_where_this_torch_grants_it() -> None:
    @dataclass
    class Newer:
        shutdown_timeout: int | None = None

    @dataclass
    class Older:
        max_restarts: int = 3

    assert _patience(Newer) == {"shutdown_timeout": 110}
    assert _patience(Older) == {}
