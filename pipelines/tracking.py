"""The logbook: one MLflow run for each `kedro run`. MLflow is imported when a run starts."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from contramask.tracker import NullTracker, Tracker
from pipelines import unsent
from pipelines.addresses import absolute_uri, run_link, store_root
from pipelines.runs import create_run, experiment_id, flatten
from pipelines.unsent import UnsentTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from matplotlib.figure import Figure
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

#: MLflow's limit: characters of a tag.
MAX_TAG = 5000
#: Calls of `log` sent in one request; at ten numbers each well below MLflow's 1000.
MAX_LOGS_A_REQUEST = 50

#: What MLflow refuses in the name of a metric.
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")

#: Run, values by name, step, milliseconds since 1970.
Numbers = tuple[str, dict[str, float], int, int]

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
    gone. Here the first failure is logged once and everything after it goes to the file `kept`
    (JSON lines), which is sent when the run ends or a later one begins. No method raises because of
    the server.
    """

    #: The run's id and perhaps its page, for the report.
    link: Mapping[str, str] = MappingProxyType({})

    def __init__(self, client: MlflowClient, run_id: str, kept: Path, parent: str = "") -> None:
        self.run_id = run_id
        self.client = client
        self._parent = parent
        self._kept = kept
        self._fallback: UnsentTracker | None = None
        self._giving_up = threading.Lock()
        self._waiting: queue.Queue[Numbers | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send, name="mlflow-metrics", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Queue numbers for a step."""
        self._queue(self.run_id, metrics, step)

    def results(self, metrics: Mapping[str, float]) -> None:
        """Queue an experiment's final numbers, for the run and for the experiment it is part of."""
        self._queue(self.run_id, metrics, 0)
        if self._parent:
            self._queue(self._parent, metrics, 0)

    def figure(self, name: str, fig: Figure) -> None:
        """Store a matplotlib figure as `figures/<name>.png`."""
        self.attempt(
            lambda: self.client.log_figure(self.run_id, fig, f"figures/{name}.png"),
            lambda fallback: fallback.figure(name, fig),
        )

    def artifact(self, path: Path) -> None:
        """Store a file."""
        self.attempt(
            lambda: self.client.log_artifact(self.run_id, str(path)),
            lambda fallback: fallback.artifact(path),
        )

    def rewind(self, name: str, step: int) -> None:
        """There is nothing to forget: an MLflow run is never continued, a new one is opened."""

    def dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Name data that went in, by their hash."""

        def send() -> None:
            for run_id in filter(None, (self.run_id, self._parent)):
                unsent.log_dataset(self.client, run_id, name, digest, source, context)

        self.attempt(send, lambda fallback: fallback.dataset(name, digest, source, context))

    def attempt(self, send: Callable[[], Any], keep: Callable[[UnsentTracker], Any]) -> None:
        """Call `send`; if the server fails, or failed before, call `keep` instead."""
        if self._fallback is None:
            try:
                send()
                return
            except Exception as error:
                self._lost(error)
        if self._fallback is not None:
            keep(self._fallback)

    def close(self, status: str, error: BaseException | None = None) -> None:
        """Send what waits (30 s at most) and end the run as FINISHED, FAILED or KILLED.

        Its experiment's run ends with it: it shows how the latest stage ended, and when.
        """
        self._waiting.put(None)
        self._thread.join(timeout=30)
        if self._fallback is None:
            try:
                if error is not None:
                    text = f"{type(error).__name__}: {error}"[:MAX_TAG]
                    self.client.set_tag(self.run_id, "error", text)
                for run_id in filter(None, (self.run_id, self._parent)):
                    self.client.set_terminated(run_id, status)
                return
            except Exception as failure:
                self._lost(failure)
        if self._fallback is not None:
            self._fallback.close(status, error)
            unsent.try_to_send(self._kept, self.client, lambda run: self.run_id)

    def _lost(self, error: Exception) -> None:
        with self._giving_up:  # both threads may notice at once
            self._fallback = self._fallback or _give_up(self._kept, error, {"id": self.run_id})

    def _queue(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        values = {name: float(value) for name, value in metrics.items()}
        self._waiting.put((run_id, values, step, time.time_ns() // 1_000_000))

    def _send(self) -> None:
        for batch in _batches(self._waiting):
            self.attempt(lambda batch=batch: self._log_batch(batch), self._keeper(batch))

    def _log_batch(self, batch: list[Numbers]) -> None:
        from mlflow.entities import Metric

        for run_id in dict.fromkeys(entry[0] for entry in batch):
            metrics = [
                Metric(metric_name(name), value, when, step)
                for run, values, step, when in batch
                for name, value in values.items()
                if run == run_id
            ]
            self.client.log_batch(run_id, metrics=metrics)

    def _keeper(self, batch: list[Numbers]) -> Callable[[UnsentTracker], None]:
        def keep(fallback: UnsentTracker) -> None:
            for run_id, values, step, _ in batch:
                if run_id == self.run_id:
                    fallback.log(values, step)

        return keep


def start_run(
    settings: Mapping[str, Any], project: Path, name: str, tags: Mapping[str, str], params: Any
) -> MlflowTracker | UnsentTracker:
    """Open a run with its tags and parameters as `settings` (`mlflow.yml`) say.

    Without a working server, a tracker that keeps everything in a file until there is one. With the
    tags `experiment` and `config_hash` the run becomes part of its experiment's run.
    """
    root = store_root(project)
    folder = root / unsent.FOLDER
    kept = folder / f"{name.replace(' ', '-')}-{time.time_ns() // 1_000_000}" / unsent.FILE
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7 would hold up the start
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    run = {"id": None, "name": name, "tags": dict(tags), "params": flatten(params)}
    try:
        from mlflow import MlflowClient

        given = os.environ.get("MLFLOW_TRACKING_URI") or settings["tracking_uri"]
        client = MlflowClient(tracking_uri=absolute_uri(given, root))
        experiment = experiment_id(client, settings, root)
        run_id, parent = create_run(client, experiment, run)
    except Exception as error:
        return _give_up(kept, error, run)
    unsent.send_all(folder, client, lambda run: create_run(client, experiment, run)[0])
    tracker = MlflowTracker(client, run_id, kept, parent)
    tracker.link = run_link(client.tracking_uri, experiment, run_id)
    return tracker


def metric_name(name: str) -> str:
    """The name with what MLflow refuses replaced."""
    return _NOT_IN_NAMES.sub("_", name)


def _give_up(kept: Path, error: Exception, run: Mapping[str, Any]) -> UnsentTracker:
    logger.warning(
        "MLflow does not answer (%s: %s); the run goes on and its numbers wait in %s",
        type(error).__name__,
        str(error).splitlines()[0][:200] if str(error) else "no message",
        kept,
    )
    return UnsentTracker(kept, run)


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
