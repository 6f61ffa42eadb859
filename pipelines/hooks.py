"""What happens around every `kedro run`: typed parameters, the logbook, the closing line."""

from __future__ import annotations

import atexit
import logging
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from kedro.framework.hooks import hook_impl
from kedro.framework.project import configure_logging
from kedro.io import DatasetError

from pipelines import tracking
from pipelines.experiment import check_name, config_hash, experiment_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

    from contramask.data.config import DatasetConfig

logger = logging.getLogger(__name__)

#: Top-level parameters that are the wiring's own and not a section of the library's configuration.
OWN_PARAMETERS = ("experiment", "data", "tracking")
#: Environments that DVC may run: the others change what is computed behind its back.
DVC_ENVIRONMENTS = (None, "base", "local", "gpu")


class ParameterHooks:
    """Checks all parameters before anything else happens and hands them to the nodes as objects."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Remember where the project is."""
        self._project = context.project_path
        if os.environ.get("DVC_STAGE") and context.env not in DVC_ENVIRONMENTS:
            raise click.ClickException(
                f"DVC cannot see what environment {context.env!r} changes; run it without DVC "
                f"(`kedro run --env {context.env}`), or unset KEDRO_ENV."
            )

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: DataCatalog) -> None:
        """Make `params:<section>` typed configs and `params:experiment` the run's identity.

        Raises `click.ClickException` with every mistake when the parameters cannot be used.
        """
        from contramask.typed import ConfigError

        given = run_params.get("runtime_params") or {}
        try:
            typed = self._typed(catalog.load("parameters"), given)
        except ConfigError as error:
            raise click.ClickException(str(error)) from None
        for name, value in typed.items():
            catalog[f"params:{name}"] = value
        catalog["params:pretrain.views"] = typed["pretrain"].views

    @hook_impl(trylast=True)
    def on_pipeline_error(self, error: Exception) -> None:
        """An error this project words itself is told by its text; others keep their traceback."""
        place = _place(error, self._project)
        if place and isinstance(error, ValueError | DatasetError):
            raise click.ClickException(f"{error}\n({place})") from error

    def _typed(self, params: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        from contramask.config import parse_parameters
        from contramask.results import RunInfo

        sections = {key: value for key, value in params.items() if key not in OWN_PARAMETERS}
        typed = parse_parameters(sections, (*OWN_PARAMETERS, "methods", "recipes"))
        name = experiment_name(params)
        check_name(name)
        typed["dataset"] = self._anchored(typed["dataset"], given)
        return {**typed, "experiment": RunInfo(name, config_hash(params), typed["seed"])}

    def _anchored(self, dataset: DatasetConfig, given: Mapping[str, Any]) -> DatasetConfig:
        """Relative paths of conf/ mean the project, those of `--params` where you are."""
        typed_here = given.get("dataset") or {}
        if Path.cwd() == self._project:
            return dataset
        for key in ("root", "downloads"):
            path = getattr(dataset, key)
            if path is not None and key not in typed_here:
                dataset = replace(dataset, **{key: self._project / path})
        return dataset


class TrackingHooks:
    """Opens one MLflow run, feeds it, and closes it with the status that is true."""

    def __init__(self) -> None:
        self._run: tracking.MlflowTracker | None = None
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
        if not self._settings["enabled"]:
            return
        names = sorted(run_params.get("pipeline_names") or ["all"])
        experiment = catalog.load("params:experiment").experiment
        tracker = tracking.start_run(
            self._settings,
            self._project,
            f"{experiment} {'+'.join(names)}",
            {**_tags(self._env), "experiment": experiment, "pipelines": ",".join(names)},
            _plain_parameters(catalog),
        )
        tracking.activate(tracker)
        if isinstance(tracker, tracking.MlflowTracker):
            self._run = tracker
            atexit.register(self._close, "KILLED")  # Ctrl-C and SIGTERM end here

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Log result rows as metrics, and files the catalog marks `mlflow: artifact`."""
        if type(data).__name__ == "StageOutput":
            _log_rows(data.rows)
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

    def _close(self, status: str, error: BaseException | None = None) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.close(status, error)
            atexit.unregister(self._close)
        tracking.activate(tracking.NullTracker())
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None


class ConsoleHooks:
    """Says what is being done, how long it took, and at the end where to look."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Take the project's logging also in a sub-folder, where Kedro does not look for it."""
        if Path.cwd() != context.project_path:
            text = (context.project_path / "conf" / "logging.yml").read_text(encoding="utf-8")
            configure_logging(yaml.safe_load(text))

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Name the step."""
        self._began = time.perf_counter()
        logger.info(node.name)

    @hook_impl
    def after_node_run(self, node: Node) -> None:
        """Name its duration."""
        logger.info("%s done in %.1f s", node.name, time.perf_counter() - self._began)

    @hook_impl(trylast=True)
    def after_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Print one line: the report, the experiment's name, how to see more."""
        import rich

        said = [f"experiment {catalog.load('params:experiment').experiment}"]
        if "report_page" in pipeline.all_outputs():
            said.insert(0, f"report: {_shown(Path(catalog.get('report_page')._filepath))}")
        said.append("all runs: mlflow ui")
        rich.get_console().print(" | ".join(said), soft_wrap=True, highlight=False, markup=False)


def _place(error: Exception, project: Path) -> str | None:
    """Where the error was raised, `file:line`, if that is in this project's own code."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    file = Path(last.filename)
    inside = [project / "src", project / "pipelines"]
    if not any(file.is_relative_to(folder) for folder in inside):
        return None
    return f"{file.relative_to(project)}:{last.lineno}"


def _shown(path: Path) -> str:
    """The path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _tags(env: str) -> dict[str, str]:
    from contramask.results import code_revision

    revision = code_revision()
    dvc = {name: os.environ[name] for name in ("DVC_STAGE", "DVC_EXP_NAME") if name in os.environ}
    return {
        "command": shlex.join(["kedro", *sys.argv[1:]]),
        "env": env,
        "git.revision": revision.removesuffix("+"),
        "git.dirty": str(revision.endswith("+")).lower(),
        **{name.lower().replace("_", "."): value for name, value in dvc.items()},
        "mlflow.source.name": "kedro run",
        "mlflow.source.git.commit": revision.removesuffix("+"),
    }


def _plain_parameters(catalog: DataCatalog) -> dict[str, Any]:
    """Every section as plain containers, defaults filled in."""
    from contramask.typed import to_plain

    keys = [k for k in catalog.keys() if k.startswith("params:") and "." not in k]  # noqa: SIM118
    values = {key.removeprefix("params:"): catalog.load(key) for key in sorted(keys)}
    return {key: to_plain(value) for key, value in values.items() if key not in OWN_PARAMETERS}


def _log_rows(rows: Any) -> None:
    """One metric for each row of a results table, `<method>/<protocol>/<readout>/<metric>`."""
    metrics = {
        f"{row.method}/{row.protocol}/{row.readout}/{row.metric}": float(row.value)
        for row in rows.itertuples()
    }
    if metrics:
        tracking.current().log(metrics, step=0)
