"""How runs are opened in MLflow: one for each `kedro run`, below one for each experiment."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from pipelines.addresses import absolute_uri

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlflow import MlflowClient

#: MLflow's limits: characters of a parameter, parameters in one request.
MAX_PARAM, MAX_PARAMS_A_REQUEST = 6000, 100
#: MLflow's name of what it shows as a description.
NOTE = "mlflow.note.content"
#: Makes MLflow's UI open with runs and curves instead of its pages for language models.
KIND = "mlflow.experimentKind"
ABOUT = (
    "Encoders pre-trained by contramask. One row is one experiment (method, configuration, seed) "
    "with the final numbers of all its stages; its `kedro run`s hang below it and hold the curves. "
    "*Views > Experiments compared* shows the numbers side by side."
)
#: The view the UI offers under *Views*: its key ends in the address, `?viewStateShareKey=compared`.
VIEW, VIEW_NAME = "mlflow.sharedViewState.compared", "Experiments compared"
#: Columns of that view.
COLUMNS = (
    "attributes.`Dataset`",
    "params.`pretrain.method.name`",
    "params.`pretrain.epochs`",
    "params.`seed`",
    "metrics.`knn/mean/knn_top1`",
    "metrics.`linear/mean/linear_top1`",
    "metrics.`finetune/mean/finetune_top1`",
    "metrics.`pretrain/none/loss`",
    "metrics.`pretrain/none/seconds_total`",
)
#: What a run hands on to the run of its experiment.
SHARED_TAGS = ("experiment", "config_hash", "seed", "env", "git.revision", "git.dirty")
SOURCE_TAGS = ("mlflow.source.name", "mlflow.source.git.commit")


def experiment_id(client: MlflowClient, settings: Mapping[str, Any], root: Path) -> str:
    """The MLflow experiment all runs are in, made with its description and its view if need be."""
    from mlflow.exceptions import MlflowException

    name = settings["experiment"]
    found = client.get_experiment_by_name(name)
    if found is None:
        served = os.environ.get("MLFLOW_TRACKING_URI")  # a server knows where its artifacts go
        location = None if served else absolute_uri(settings["artifacts"], root)
        tags = {KIND: "custom_model_development", NOTE: ABOUT, VIEW: _view()}
        try:
            return str(client.create_experiment(name, artifact_location=location, tags=tags))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run was a moment faster
            if found is None:
                raise
    return str(found.experiment_id)


def create_run(client: MlflowClient, experiment: str, run: Mapping[str, Any]) -> tuple[str, str]:
    """Open the run that `run` describes; returns its id and that of its experiment's run."""
    tags, parent = run["tags"], ""
    if {"experiment", "config_hash"} <= set(tags):
        parent = _parent(client, experiment, run)
        tags = {**tags, "mlflow.parentRunId": parent}
    made = client.create_run(experiment, run_name=run["name"], tags=tags)
    _log_params(client, made.info.run_id, run["params"])
    return str(made.info.run_id), parent


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted keys; empty mappings vanish."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _parent(client: MlflowClient, experiment: str, run: Mapping[str, Any]) -> str:
    """The run that stands for the whole experiment: its stages hang below it in MLflow's UI."""
    tags = run["tags"]
    key = {"level": "experiment", **{name: tags[name] for name in ("experiment", "config_hash")}}
    query = " and ".join(f"tags.{name} = '{value}'" for name, value in key.items())
    found = client.search_runs([experiment], query, max_results=1)
    if found:
        return str(found[0].info.run_id)
    told = {name: tags[name] for name in (*SHARED_TAGS, *SOURCE_TAGS) if name in tags}
    note = f"All stages of `{tags['experiment']}`: their final numbers here, their curves below."
    made = client.create_run(
        experiment, run_name=tags["experiment"], tags={**told, **key, NOTE: note}
    )
    _log_params(client, made.info.run_id, run["params"])
    client.set_terminated(made.info.run_id, "FINISHED")
    return str(made.info.run_id)


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    fields = [Param(key, str(value)[:MAX_PARAM]) for key, value in params.items()]
    for start in range(0, len(fields), MAX_PARAMS_A_REQUEST):
        client.log_batch(run_id, params=fields[start : start + MAX_PARAMS_A_REQUEST])


def _view() -> str:
    """A saved view of MLflow's run list, as its UI stores them in the tags of an experiment."""
    now = time.time_ns() // 1_000_000
    state = {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
    }
    return json.dumps(
        {"name": VIEW_NAME, "createdAt": now, "updatedAt": now, "state": json.dumps(state)}
    )
