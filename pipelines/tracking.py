"""The logbook: one MLflow run for each `kedro run`. MLflow is imported when a run starts."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contramask.tracker import JsonLinesTracker, NullTracker, Tracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from matplotlib.figure import Figure
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

#: MLflow's limits: characters of a parameter and of a tag, parameters in one request.
MAX_PARAM, MAX_TAG, MAX_PARAMS_A_REQUEST = 6000, 5000, 100
#: Calls of `log` sent in one request; at ten numbers each well below MLflow's 1000.
MAX_LOGS_A_REQUEST = 50

#: What MLflow refuses in the name of a metric.
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")

#: Makes MLflow's UI open with runs and curves instead of its pages for language models.
KIND = {"mlflow.experimentKind": "custom_model_development"}

_active: Tracker = NullTracker()


def current() -> Tracker:
    """The tracker of the run in progress; one that records nothing when there is none."""
    return _active


def activate(tracker: Tracker) -> None:
    """Make `tracker` the one that `current` returns, in all threads."""
    global _active
    _active = tracker


class MlflowTracker:
    """Writes into one MLflow run; a `contramask.tracker.Tracker`.

    Numbers are handed to a thread, so that training never waits for a database. MLflow's own
    asynchronous logging is not used because it goes on trying, call by call, when the server is
    gone. Here the first failure is logged once and everything after it goes to the file `unsent`
    (JSON lines). No method raises because of the server.
    """

    def __init__(self, client: MlflowClient, run_id: str, unsent: Path) -> None:
        self.run_id = run_id
        self._client = client
        self._unsent = unsent
        self._fallback: JsonLinesTracker | None = None
        self._giving_up = threading.Lock()
        self._waiting: queue.Queue[tuple[dict[str, float], int, int] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue numbers for a step."""
        values = {name: float(value) for name, value in metrics.items()}
        self._waiting.put((values, step, time.time_ns() // 1_000_000))

    def figure(self, name: str, fig: Figure) -> None:
        """Store a matplotlib figure as `figures/<name>.png`."""
        self._attempt(
            lambda: self._client.log_figure(self.run_id, fig, f"figures/{name}.png"),
            lambda fallback: fallback.figure(name, fig),
        )

    def artifact(self, path: Path) -> None:
        """Store a file."""
        self._attempt(
            lambda: self._client.log_artifact(self.run_id, str(path)),
            lambda fallback: fallback.artifact(path),
        )

    def close(self, status: str, error: BaseException | None = None) -> None:
        """Send what waits (30 s at most) and end the run as FINISHED, FAILED or KILLED."""
        self._waiting.put(None)
        self._thread.join(timeout=30)
        try:
            if error is not None:
                text = f"{type(error).__name__}: {error}"[:MAX_TAG]
                self._client.set_tag(self.run_id, "error", text)
            self._client.set_terminated(self.run_id, status)
        except Exception as failure:  # tried even after an earlier failure: it may have passed
            self._fallback = self._fallback or _give_up(self._unsent, failure)

    def _send(self) -> None:
        for batch in _batches(self._waiting):
            self._attempt(lambda batch=batch: self._log_batch(batch), _keep_numbers(batch))

    def _log_batch(self, batch: list[tuple[dict[str, float], int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(_NOT_IN_NAMES.sub("_", k), v, when, step)
            for values, step, when in batch
            for k, v in values.items()
        ]
        self._client.log_batch(self.run_id, metrics=metrics)

    def _attempt(self, send: Callable[[], Any], keep: Callable[[JsonLinesTracker], Any]) -> None:
        if self._fallback is None:
            try:
                send()
                return
            except Exception as error:
                with self._giving_up:  # both threads may notice at once
                    self._fallback = self._fallback or _give_up(self._unsent, error)
        keep(self._fallback)


def start_run(
    settings: Mapping[str, Any], project: Path, name: str, tags: Mapping[str, str], params: Any
) -> MlflowTracker | JsonLinesTracker:
    """Open a run with its tags and parameters as `settings` (`mlflow.yml`) say.

    Without a working server, the JSON-lines tracker that collects the numbers instead.
    """
    root = store_root(project)
    unsent = root / "mlflow-unsent" / f"{name.replace(' ', '-')}.jsonl"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7 would hold up the start
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        from mlflow import MlflowClient

        given = os.environ.get("MLFLOW_TRACKING_URI") or settings["tracking_uri"]
        client = MlflowClient(tracking_uri=absolute_uri(given, root))
        experiment = _experiment_id(client, settings, root)
        run = client.create_run(experiment, run_name=name, tags=dict(tags))
        _log_params(client, run.info.run_id, params)
    except Exception as error:
        return _give_up(unsent, error)
    return MlflowTracker(client, run.info.run_id, unsent)


def store_root(project: Path) -> Path:
    """Where the logbook lives: the project, also from the copy that `dvc exp run --temp` makes."""
    parts = project.resolve().parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:i])
    return project.resolve()


def absolute_uri(uri: str, root: Path) -> str:
    """A tracking or artifact address whose relative path means `root`, wherever one stands."""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{root / uri.removeprefix('sqlite:///')}"
    return uri if "://" in uri else (root / uri).as_uri()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys; empty mappings vanish."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _experiment_id(client: MlflowClient, settings: Mapping[str, Any], root: Path) -> str:
    from mlflow.exceptions import MlflowException

    name = settings["experiment"]
    found = client.get_experiment_by_name(name)
    if found is None:
        served = os.environ.get("MLFLOW_TRACKING_URI")  # a server knows where its artifacts go
        location = None if served else absolute_uri(settings["artifacts"], root)
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=KIND))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run was a moment faster
            if found is None:
                raise
    return str(found.experiment_id)


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    fields = [Param(key, str(value)[:MAX_PARAM]) for key, value in flatten(params).items()]
    for start in range(0, len(fields), MAX_PARAMS_A_REQUEST):
        client.log_batch(run_id, params=fields[start : start + MAX_PARAMS_A_REQUEST])


def _give_up(unsent: Path, error: Exception) -> JsonLinesTracker:
    logger.warning(
        "MLflow does not answer (%s: %s); the run goes on and its numbers go to %s",
        type(error).__name__,
        str(error).splitlines()[0][:200] if str(error) else "no message",
        unsent,
    )
    return JsonLinesTracker(unsent)


def _batches(waiting: queue.Queue[Any]) -> Iterator[list[Any]]:
    """Everything that waits, at most `MAX_LOGS_A_REQUEST` at once, until a None comes."""
    while (item := waiting.get()) is not None:
        batch = [item]
        while len(batch) < MAX_LOGS_A_REQUEST and not waiting.empty():
            if (item := waiting.get()) is None:
                yield batch
                return
            batch.append(item)
        yield batch


def _keep_numbers(batch: list[Any]) -> Callable[[JsonLinesTracker], None]:
    def keep(fallback: JsonLinesTracker) -> None:
        for values, step, _ in batch:
            fallback.log(values, step)

    return keep
