"""The logbook: numbers arrive by step, and no failure of a server reaches the training."""

import json
import logging
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient

from contramask.tracker import JsonLinesTracker, NullTracker
from pipelines import tracking
from pipelines.addresses import absolute_uri, store_root
from pipelines.runs import VIEW, VIEW_NAME, flatten
from pipelines.tracking import MlflowTracker, start_run

SETTINGS = {"tracking_uri": "sqlite:///mlflow.db", "artifacts": "mlartifacts", "experiment": "e"}


@pytest.fixture
def run(mlflow_project: Path) -> MlflowTracker:
    """A run in a fresh database."""
    tracker = start_run(SETTINGS, mlflow_project, "cmae all", {"env": "base"}, {"a": {"b": 1}})
    assert isinstance(tracker, MlflowTracker)
    return tracker


def client(project: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db")


def experiment_of(project: Path) -> str:
    return str(client(project).get_experiment_by_name("e").experiment_id)


def test_numbers_arrive_by_step(run: MlflowTracker, mlflow_project: Path) -> None:
    for step in range(120):
        run.log({"pretrain/loss": 1 / (step + 1), "pretrain/lr": 0.1}, step)
    run.close("FINISHED")
    history = client(mlflow_project).get_metric_history(run.run_id, "pretrain/loss")
    assert [m.step for m in sorted(history, key=lambda m: m.step)] == list(range(120))
    assert max(m.value for m in history) == 1
    stored = client(mlflow_project).get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "cmae all"
    assert stored.data.params == {"a.b": "1"}
    assert stored.data.tags["env"] == "base"


def test_names_mlflow_refuses_are_changed(run: MlflowTracker, mlflow_project: Path) -> None:
    run.log({"mae/knn k=20, T=0.07/knn_top1": 50.0}, 0)
    run.close("FINISHED")
    metrics = client(mlflow_project).get_run(run.run_id).data.metrics
    assert metrics == {"mae/knn k_20_ T_0.07/knn_top1": 50.0}


def test_figures_and_files_arrive_in_the_projects_folder(
    run: MlflowTracker, mlflow_project: Path
) -> None:
    page = mlflow_project / "report.html"
    page.write_text("<p>", encoding="utf-8")
    run.figure("pretrain/views", Figure())
    run.artifact(page)
    run.close("FINISHED")
    stored = {p.name for p in (mlflow_project / "mlartifacts").rglob("*") if p.is_file()}
    assert stored == {"report.html", "views.png"}
    assert not (mlflow_project / "mlflow-unsent").exists()


def test_an_error_is_a_tag_and_the_status(run: MlflowTracker, mlflow_project: Path) -> None:
    run.close("FAILED", ValueError("the loss is not finite"))
    stored = client(mlflow_project).get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["error"] == "ValueError: the loss is not finite"


class DeadClient:
    """A server that has gone."""

    calls = 0

    def __getattr__(self, name: str) -> None:
        self.calls += 1
        raise ConnectionError("connection refused")


def test_a_server_that_dies_costs_one_warning_and_no_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, unsent = DeadClient(), tmp_path / "unsent" / "run.jsonl"
    tracker = MlflowTracker(server, "run", unsent)
    with caplog.at_level(logging.WARNING, "pipelines"):
        for step in range(30):
            tracker.log({"loss": float(step)}, step)
        tracker.figure("views", Figure())
        tracker.close("FINISHED")
    lines = [json.loads(line) for line in unsent.read_text(encoding="utf-8").splitlines()]
    assert sorted(line["step"] for line in lines if "loss" in line) == list(range(30))
    assert {"figure": "views.png"} in lines
    assert len(caplog.records) == 1
    assert "connection refused" in caplog.text
    assert server.calls <= 3  # the first batch, a figure in the same moment, and the ending


def test_a_server_that_was_never_there_is_replaced_by_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = start_run(SETTINGS, tmp_path, "cmae all", {}, {})
    assert isinstance(tracker, JsonLinesTracker)
    tracker.log({"loss": 1.0}, 0)
    assert tracker.path.parent.parent == tmp_path / "mlflow-unsent"
    assert tracker.path.parent.name.startswith("cmae-all-")
    assert '"loss": 1.0' in tracker.path.read_text(encoding="utf-8")


def test_the_stages_of_an_experiment_hang_below_one_run(mlflow_project: Path) -> None:
    tags = {"experiment": "mae-s0", "config_hash": "12ab"}
    for stage, found in (("pretrain", {}), ("probe", {"mae/linear/mean/linear_top1": 71.5})):
        tracker = start_run(SETTINGS, mlflow_project, f"mae-s0 {stage}", tags, {"seed": 0})
        tracker.results(found)
        tracker.close("FINISHED")
    other = start_run(SETTINGS, mlflow_project, "x", {**tags, "config_hash": "ffff"}, {})
    other.close("FINISHED")
    runs = client(mlflow_project).search_runs([experiment_of(mlflow_project)])
    named = {run.info.run_name: run for run in runs if run.data.tags["config_hash"] == "12ab"}
    assert sorted(named) == ["mae-s0", "mae-s0 pretrain", "mae-s0 probe"]
    whole = named["mae-s0"]
    assert whole.data.metrics == {"mae/linear/mean/linear_top1": 71.5}
    assert whole.data.params == {"seed": "0"}
    for name in ("mae-s0 pretrain", "mae-s0 probe"):
        assert named[name].data.tags["mlflow.parentRunId"] == whole.info.run_id
        assert whole.info.end_time >= named[name].info.start_time
    assert len(runs) == 5


def test_an_experiments_run_says_what_its_latest_stage_read_and_how_it_ended(
    mlflow_project: Path,
) -> None:
    tags = {"experiment": "mae-s0", "config_hash": "12ab", "mlflow.source.name": "kedro run"}
    for status in ("FINISHED", "FAILED"):
        tracker = start_run(SETTINGS, mlflow_project, "mae-s0 probe", tags, {})
        tracker.dataset("digit_scenes", "ab12", "data/03_primary/store", "store")
        tracker.close(status)
    runs = client(mlflow_project).search_runs([experiment_of(mlflow_project)])
    (whole,) = [run for run in runs if run.info.run_name == "mae-s0"]
    assert whole.info.status == "FAILED"
    assert [entry.dataset.digest for entry in whole.inputs.dataset_inputs] == ["ab12"]
    assert whole.data.tags["mlflow.source.name"] == "kedro run"


def test_the_list_of_runs_comes_with_a_description_and_a_view(
    run: MlflowTracker, mlflow_project: Path
) -> None:
    run.close("FINISHED")
    tags = client(mlflow_project).get_experiment_by_name("e").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert VIEW_NAME in tags["mlflow.note.content"]
    view = json.loads(tags[VIEW])
    assert view["name"] == VIEW_NAME
    assert len(tags[VIEW]) < 5000  # characters a tag may have
    assert "metrics.`linear/mean/linear_top1`" in json.loads(view["state"])["selectedColumns"]


def test_data_are_inputs_of_the_run_with_their_hash(
    run: MlflowTracker, mlflow_project: Path
) -> None:
    run.dataset("digit_scenes", "a" * 64, "data/03_primary/store", "store")
    run.close("FINISHED")
    (entry,) = client(mlflow_project).get_run(run.run_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("digit_scenes", "a" * 36)
    assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "store")]


def test_two_runs_that_start_a_project_at_once_share_its_experiment(
    mlflow_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between asking for the experiment and making it, another run has made it."""
    ask, asked = MlflowClient.get_experiment_by_name, []

    def late(self: MlflowClient, name: str) -> object:
        asked.append(name)
        if len(asked) > 1:
            return ask(self, name)
        self.create_experiment(name)
        return None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", late)
    tracker = start_run(SETTINGS, mlflow_project, "mae all", {}, {})
    assert isinstance(tracker, MlflowTracker)
    tracker.close("FINISHED")
    assert len(asked) == 2


def test_long_values_are_cut_and_many_fields_are_sent_in_parts(mlflow_project: Path) -> None:
    params = {"many": {f"p{i}": i for i in range(230)}, "long": "x" * 9000}
    tracker = start_run(SETTINGS, mlflow_project, "n", {}, params)
    tracker.close("FINISHED")
    stored = client(mlflow_project).get_run(tracker.run_id).data.params
    assert len(stored) == 231
    assert len(stored["long"]) == 6000


def test_without_a_run_nothing_is_recorded() -> None:
    assert isinstance(tracking.current(), NullTracker)


def test_flatten_makes_one_field_of_each_leaf() -> None:
    nested = {"method": {"name": "mae", "decoder": {"depth": 2}}, "betas": [0.9, 0.95]}
    assert flatten(nested) == {
        "method.name": "mae",
        "method.decoder.depth": 2,
        "betas": [0.9, 0.95],
    }


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite:////p/mlflow.db"),
        ("sqlite:////elsewhere/m.db", "sqlite:////elsewhere/m.db"),
        ("http://host:5000", "http://host:5000"),
        ("mlartifacts", "file:///p/mlartifacts"),
    ],
)
def test_relative_addresses_mean_the_project(uri: str, expected: str) -> None:
    assert absolute_uri(uri, Path("/p")) == expected


def test_the_copy_of_a_dvc_experiment_logs_to_the_project(tmp_path: Path) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "abc"
    assert store_root(copy) == tmp_path.resolve()
    assert store_root(tmp_path) == tmp_path.resolve()
