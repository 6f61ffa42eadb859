"""What happens around every `kedro run`: typed parameters, clear errors, the closing line."""

from __future__ import annotations

import logging
import os
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

from pipelines.experiment import (
    OWN_PARAMETERS,
    check_matrix,
    check_name,
    config_hash,
    experiment_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kedro.framework.context import KedroContext
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline
    from kedro.pipeline.node import Node

    from contramask.data.config import DatasetConfig
    from contramask.train.pretrain import PretrainConfig

logger = logging.getLogger(__name__)

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
        own: BaseException | None = error
        while isinstance(own, DatasetError) and not _place(own, self._project):
            own = own.__cause__  # Kedro words what a data set could not load a second time
        place = _place(own, self._project) if own else None
        if place and isinstance(own, ValueError | DatasetError):
            raise click.ClickException(f"{own}\n({place})") from error

    def _typed(self, params: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        from contramask.config import parse_parameters
        from contramask.results import RunInfo

        sections = {key: value for key, value in params.items() if key not in OWN_PARAMETERS}
        typed = parse_parameters(sections, (*OWN_PARAMETERS, "methods", "recipes", "presets"))
        name = experiment_name(params)
        check_name(name)
        check_matrix(params)
        _check_branch(typed["pretrain"])
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


class ConsoleHooks:
    """Says what is being done, how long it took, and at the end where to look."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Take the project's logging also in a sub-folder, where Kedro does not look for it.

        Kedro's advice to repeat a command that failed at once is left out: it fails again.
        """
        if Path.cwd() != context.project_path:
            text = (context.project_path / "conf" / "logging.yml").read_text(encoding="utf-8")
            configure_logging(yaml.safe_load(text))
        for runner in ("sequential", "thread", "parallel"):
            logging.getLogger(f"kedro.runner.{runner}_runner").addFilter(_is_useful)

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


def _is_useful(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("No nodes ran. Repeat the previous command")


def _check_branch(pretrain: PretrainConfig) -> None:
    """Under DVC, a method that predicts tokens must stand where a tokenizer is made for it."""
    from contramask.typed import ConfigError

    stage = os.environ.get("DVC_STAGE", "").partition("@")[0]
    if stage == "pretrain" and getattr(pretrain.method, "needs_tokenizer", False):
        raise ConfigError(
            f"experiment.methods: given {pretrain.method.name}, which predicts image tokens; "
            "put it under experiment.token_methods, whose experiments make a tokenizer first"
        )


def _place(error: BaseException, project: Path) -> str | None:
    """Where the error was raised, `file:line`, if that is in this project's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return None
    last, file = frames[-1], Path(frames[-1].filename)
    inside = [project / "src", project / "pipelines"]
    if not any(file.is_relative_to(folder) for folder in inside):
        return None
    return f"{file.relative_to(project)}:{last.lineno}"


def _shown(path: Path) -> str:
    """The path as one would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
