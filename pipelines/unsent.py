"""What a lost tracking server did not get: kept in files, and sent when one answers again."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contramask.tracker import JsonLinesTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

FOLDER, FILE = "mlflow-unsent", "run.jsonl"
#: A file without its last line this long untouched belongs to a process that was killed.
ABANDONED_S = 24 * 3600
#: Metrics in one request; MLflow's limit.
MAX_METRICS = 1000
#: Keys of a line of numbers that are not numbers' names.
_WHEN = ("step", "time")


class UnsentTracker(JsonLinesTracker):
    """Keeps a run, or the rest of one, as JSON lines that `send` can read.

    `run` says which: `id` (None when the server never gave one), `name`, `tags`, `params`.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        super().__init__(path)
        self._append({"run": dict(run)})

    def results(self, metrics: Mapping[str, float]) -> None:
        """Record an experiment's final numbers."""
        self.log(metrics, 0)

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Record which data went in."""
        self._append({"dataset": [name, digest, source, context]})

    def close(self, status: str, error: BaseException | None = None) -> None:
        """Mark the file as complete, so that a later run sends it."""
        text = None if error is None else f"{type(error).__name__}: {error}"[:5000]
        self._append({"end": status, "error": text})


def send_all(folder: Path, client: MlflowClient, create: Callable[..., str]) -> int:
    """Send every complete `<run>/run.jsonl` of `folder`; returns how many.

    `create(run)` opens a run. Nothing is raised: what a server fails to take stays where it is.
    """
    sent = 0
    for path in sorted(folder.glob(f"*/{FILE}")) if folder.is_dir() else []:
        sent += try_to_send(path, client, create)
    return sent


def try_to_send(path: Path, client: MlflowClient, create: Callable[..., str]) -> bool:
    """Send one file and delete its folder; False when it is not complete or the server fails."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        ended = "end" in lines[-1] or time.time() - path.stat().st_mtime > ABANDONED_S
        if not ended or "run" not in lines[0]:
            return False
        _send(lines, path.parent, client, create)
    except Exception as error:
        logger.debug("%s waits on: %s", path, error)
        return False
    shutil.rmtree(path.parent)
    logger.info("sent to MLflow what it missed: %s", path.parent.name)
    return True


def _send(
    lines: list[dict[str, Any]], folder: Path, client: MlflowClient, create: Callable[..., str]
) -> None:
    run = lines[0]["run"]
    run_id = run["id"] or create(run)
    last = lines[-1] if "end" in lines[-1] else {"end": "KILLED", "error": None}
    metrics = [metric for line in lines if "step" in line for metric in _metrics(line)]
    for start in range(0, len(metrics), MAX_METRICS):
        client.log_batch(run_id, metrics=metrics[start : start + MAX_METRICS])
    for line in lines:
        if "figure" in line:
            client.log_artifact(run_id, str(folder / line["figure"]), "figures")
        elif "artifact" in line and Path(line["artifact"]).exists():
            client.log_artifact(run_id, line["artifact"])
        elif "dataset" in line:
            log_dataset(client, run_id, *line["dataset"])
    if last["error"]:
        client.set_tag(run_id, "error", last["error"])
    client.set_terminated(run_id, last["end"])


def _metrics(line: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Metric

    from pipelines.tracking import metric_name

    when = int(line["time"] * 1000)
    return [
        Metric(metric_name(key), float(value), when, line["step"])
        for key, value in line.items()
        if key not in _WHEN
    ]


def log_dataset(
    client: MlflowClient, run_id: str, name: str, digest: str, source: str, context: str
) -> None:
    """Name the data of a run among MLflow's data-set inputs; `digest` is the data's own hash."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entry = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
    tags = [InputTag("mlflow.data.context", context)]
    client.log_inputs(run_id, [DatasetInput(entry, tags)])
