"""A lost server: what it missed is kept, and arrives when a server answers again."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from pipelines.tracking import MlflowTracker, start_run
from pipelines.unsent import UnsentTracker

SETTINGS = {"tracking_uri": "sqlite:///mlflow.db", "artifacts": "mlartifacts", "experiment": "e"}
NOBODY = "http://127.0.0.1:9"


def runs(project: Path) -> dict[str, Any]:
    client = MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("e").experiment_id
    return {run.info.run_name: run for run in client.search_runs([experiment])}


def test_a_run_without_a_server_is_written_by_the_next_run_that_has_one(
    mlflow_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tags = {"experiment": "mae-s0", "config_hash": "12ab"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    lost = start_run(SETTINGS, mlflow_project, "mae-s0 pretrain", tags, {"a": {"b": 1}})
    assert isinstance(lost, UnsentTracker)
    lost.log({"pretrain/loss": 0.5}, 7)
    lost.results({"mae/linear/mean/linear_top1": 70.0})
    lost.figure("views", Figure())
    lost.dataset("digits", "ab12", "data/03_primary/store", "store")
    lost.close("FAILED", ValueError("no"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    start_run(SETTINGS, mlflow_project, "later", {}, {}).close("FINISHED")
    run = runs(mlflow_project)["mae-s0 pretrain"]
    assert run.info.status == "FAILED"
    assert run.data.metrics == {"pretrain/loss": 0.5, "mae/linear/mean/linear_top1": 70.0}
    assert run.data.params == {"a.b": "1"}
    assert run.data.tags["error"] == "ValueError: no"
    assert run.inputs.dataset_inputs[0].dataset.digest == "ab12"
    assert list((mlflow_project / "mlartifacts").rglob("views.png"))
    assert not list((mlflow_project / "mlflow-unsent").iterdir())


def test_a_server_that_is_back_at_the_end_gets_the_rest_of_the_run(mlflow_project: Path) -> None:
    tracker = start_run(SETTINGS, mlflow_project, "mae", {}, {})
    assert isinstance(tracker, MlflowTracker)
    real = tracker.client
    tracker.client = Dead()
    tracker.figure("views", Figure())  # notices
    tracker.log({"loss": 0.25}, 3)
    tracker.client = real
    tracker.close("FINISHED")
    run = runs(mlflow_project)["mae"]
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 0.25})
    assert list((mlflow_project / "mlartifacts").rglob("views.png"))
    assert not list((mlflow_project / "mlflow-unsent").iterdir())


def test_what_another_process_still_writes_is_left_alone(mlflow_project: Path) -> None:
    running = UnsentTracker(
        mlflow_project / "mlflow-unsent" / "x-1" / "run.jsonl",
        {"id": None, "name": "x", "tags": {}, "params": {}},
    )
    running.log({"loss": 1.0}, 0)
    start_run(SETTINGS, mlflow_project, "later", {}, {}).close("FINISHED")
    assert "x" not in runs(mlflow_project)
    running.close("FINISHED")
    start_run(SETTINGS, mlflow_project, "still later", {}, {}).close("FINISHED")
    assert runs(mlflow_project)["x"].data.metrics == {"loss": 1.0}


class Mortal(BaseHTTPRequestHandler):
    """Just enough of a tracking server to open a run and to take numbers."""

    def do_GET(self) -> None:
        self.answer({"experiment": {"experiment_id": "1", "name": "e"}})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        run = {"info": {"run_id": "r1", "experiment_id": "1", "status": "RUNNING"}, "data": {}}
        self.answer({"run": run} if self.path.endswith("runs/create") else {})

    def answer(self, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_server_that_dies_during_a_run_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mortal)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = start_run(SETTINGS, tmp_path, "mae", {}, {"seed": 0})
    assert isinstance(tracker, MlflowTracker)
    assert tracker.link["url"].endswith("/#/experiments/1/runs/r1")
    server.shutdown()
    server.server_close()
    for step in range(20):
        tracker.log({"loss": float(step)}, step)
    tracker.close("FINISHED")
    (kept,) = (tmp_path / "mlflow-unsent").glob("mae-*/run.jsonl")
    lines = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"run": {"id": "r1"}}
    assert [line["step"] for line in lines if "step" in line] == list(range(20))
    assert lines[-1] == {"end": "FINISHED", "error": None}


class Dead:
    """A server that has gone."""

    def __getattr__(self, name: str) -> None:
        raise ConnectionError("connection refused")
