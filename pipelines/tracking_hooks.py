"""The logbook around every `kedro run`: opened, fed, and closed with the status that is true."""

from __future__ import annotations

import atexit
import os
import shlex
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl

from pipelines import runs, tracking
from pipelines.experiment import OWN_PARAMETERS

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog

#: Datasets that are a run's data inputs -> (key of the name, key of the hash) in their manifests.
DATA = {"store": ("name", "data_hash"), "boxes": ("box_set_id", "box_set_id")}
#: The method of rows that are about the untrained network.
ANCHOR = "random_init"


class TrackingHooks:
    """Opens one MLflow run, feeds it, and closes it with the status that is true."""

    def __init__(self) -> None:
        self._run: tracking.MlflowTracker | tracking.UnsentTracker | None = None
        self._monitor: Any = None
        self._old_handler: Any = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Read `mlflow.yml`; nothing of MLflow is imported yet."""
        self._project, self._env = context.project_path, context.env or "local"
        self._settings = context.config_loader["mlflow"]

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: DataCatalog) -> None:
        """Open the run with its name, tags and every parameter as a field of its own."""
        self._close("KILLED")  # what an interrupted run of this process (a notebook) left open
        self._catch_sigterm()
        self._catalog = catalog
        self._seen: set[str] = set()
        self._wanted = _wanted(self._settings, catalog)
        if not self._wanted["enabled"]:
            return
        names = sorted(run_params.get("pipeline_names") or ["all"])
        run = catalog.load("params:experiment")
        tracker = tracking.start_run(
            self._settings,
            self._project,
            f"{run.experiment} {'+'.join(names)}",
            {**_tags(self._env), **_identity(run), "pipelines": ",".join(names)},
            _plain_parameters(catalog),
        )
        self._run = tracker
        tracking.activate(tracker)
        atexit.register(self._close, "KILLED")  # Ctrl-C and SIGTERM end here
        if self._wanted.get("system_metrics") and isinstance(tracker, tracking.MlflowTracker):
            self._monitor = _system_monitor(tracker)

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str, data: Any) -> None:
        """Name the images and the boxes a run learns from, by their hash."""
        if dataset_name not in DATA or data is None or self._run is None:
            return
        name, digest = (str(data.manifest[key]) for key in DATA[dataset_name])
        if digest not in self._seen:
            self._seen.add(digest)
            path = str(self._catalog.get(dataset_name)._filepath)
            self._run.dataset(name, digest, path, dataset_name)

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Tell the report which run made a result."""
        link = getattr(self._run, "link", None)
        if link and type(data).__name__ == "StageOutput":
            data.facts["mlflow"] = dict(link)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log result rows as metrics, and files the catalog marks `mlflow: artifact`."""
        if self._run is not None and type(data).__name__ == "StageOutput":
            self._run.results(_numbers(data.rows))
        if dataset_name == "encoder" and self._wanted.get("register"):
            self._register(data)
        dataset = self._catalog.get(dataset_name)
        if (getattr(dataset, "metadata", None) or {}).get("mlflow") == "artifact":
            tracking.current().artifact(Path(dataset._filepath))

    @hook_impl
    def after_pipeline_run(self) -> None:
        """All went well."""
        self._close("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Something failed, or a launcher stopped its workers because of a signal."""
        self._close("KILLED" if type(error).__name__ == "SignalException" else "FAILED", error)

    def _catch_sigterm(self) -> None:
        """Let SIGTERM unwind the stack, so that half-written files go and the run is closed."""
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def _register(self, bundle: Any) -> None:
        """Make the encoder a version of the registered model `<experiment>-<method>`."""
        if not isinstance(self._run, tracking.MlflowTracker):
            return
        run, name = self._run, f"{self._settings['experiment']}-{bundle.manifest['method']}"

        def send() -> None:
            from pipelines.registration import register_encoder

            register_encoder(run.client, run.run_id, bundle, name)

        run.attempt(send, lambda fallback: None)

    def _close(self, status: str, error: BaseException | None = None) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        if self._run is not None:
            run, self._run = self._run, None
            run.close(status, error)
            atexit.unregister(self._close)
        tracking.activate(tracking.NullTracker())
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None


def _tags(env: str) -> dict[str, str]:
    from contramask.results import code_revision

    revision = code_revision()
    command = shlex.join(["kedro", *sys.argv[1:]])
    dvc = {name: os.environ[name] for name in ("DVC_STAGE", "DVC_EXP_NAME") if name in os.environ}
    return {
        "command": command,
        "env": env,
        "git.revision": revision.removesuffix("+"),
        "git.dirty": str(revision.endswith("+")).lower(),
        **{name.lower().replace("_", "."): value for name, value in dvc.items()},
        runs.NOTE: f"`{command}`",
        "mlflow.source.name": "kedro run",
        "mlflow.source.git.commit": revision.removesuffix("+"),
    }


def _plain_parameters(catalog: DataCatalog) -> dict[str, Any]:
    """Every section as plain containers, defaults filled in."""
    from contramask.typed import to_plain

    keys = [k for k in catalog.keys() if k.startswith("params:") and "." not in k]  # noqa: SIM118
    values = {key.removeprefix("params:"): catalog.load(key) for key in sorted(keys)}
    return {key: to_plain(value) for key, value in values.items() if key not in OWN_PARAMETERS}


def _identity(run: Any) -> dict[str, str]:
    """What makes runs parts of one experiment; a process may know less (a notebook)."""
    return {
        "experiment": run.experiment,
        "config_hash": run.config_hash,
        "seed": str(run.seed),
    }


def _wanted(settings: Mapping[str, Any], catalog: DataCatalog) -> dict[str, Any]:
    """`mlflow.yml`, and over it the parameter `tracking`: false, or a group with the same keys."""
    params = catalog.load("parameters") if "parameters" in catalog else {}
    given = params.get("tracking", {})
    given = given if isinstance(given, Mapping) else {"enabled": bool(given)}
    return {**settings, **given}


def _system_monitor(tracker: tracking.MlflowTracker) -> Any:
    """MLflow's sampling of processor, memory, disk, network and GPU, every ten seconds."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(tracker.run_id, tracking_uri=tracker.client.tracking_uri)
    monitor.start()
    return monitor


def _numbers(rows: Any) -> dict[str, float]:
    """One metric for each row of a results table, `<protocol>/<readout>/<metric>`.

    Names without the method are columns in which methods can be compared; the untrained network's
    begin with `random_init/`.
    """
    return {
        f"{_prefix(row.method)}{row.protocol}/{row.readout}/{row.metric}": float(row.value)
        for row in rows.itertuples()
    }


def _prefix(method: str) -> str:
    return f"{method}/" if method == ANCHOR else ""
