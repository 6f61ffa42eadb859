"""Around a run: mistakes are told before any data is read, and a run ends with its true status."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pandas as pd
import pytest
from click.testing import CliRunner
from kedro.framework.cli.cli import KedroCLI
from kedro.io import DataCatalog, DatasetError
from mlflow import MlflowClient

from contramask.results import COLUMNS, RunInfo, StageOutput
from contramask.tracker import NullTracker
from contramask.train.pretrain_config import PretrainConfig
from pipelines import tracking
from pipelines.datasets import ENCODER, FolderDataset
from pipelines.experiment import check_name
from pipelines.hooks import ParameterHooks
from pipelines.tracking_hooks import TrackingHooks

ROOT = Path(__file__).parents[2]
PARAMS: dict[str, Any] = {
    "experiment": "auto",
    "seed": 3,
    "dataset": {"source": "folder", "root": "images"},
    "pretrain": {"method": {"name": "mae"}, "epochs": 2},
}


def parameter_hooks(project: Path = ROOT) -> ParameterHooks:
    hooks = ParameterHooks()
    hooks.after_context_created(SimpleNamespace(project_path=project, env="base"))
    return hooks


def checked(params: dict[str, Any], given: dict[str, Any] | None = None) -> DataCatalog:
    """The catalog after the hook saw `params`, of which `given` came from the command line."""
    catalog = DataCatalog({})
    catalog["parameters"] = params
    hooks = parameter_hooks(ROOT)
    hooks.before_pipeline_run(run_params={"runtime_params": given}, catalog=catalog)
    return catalog


def test_nodes_receive_typed_objects() -> None:
    catalog = checked(PARAMS)
    pretrain = catalog.load("params:pretrain")
    assert isinstance(pretrain, PretrainConfig)
    assert pretrain.epochs == 2
    assert catalog.load("params:finetune").epochs >= 1  # not given: defaults
    run = catalog.load("params:experiment")
    assert isinstance(run, RunInfo)
    assert run.experiment == f"mae-{run.config_hash}-s3"
    assert run.seed == 3


def test_all_mistakes_are_told_at_once() -> None:
    wrong = {"pretrain": {"epohcs": 2, "batch_size": "many"}, "pretrian": {"x": 1}}
    with pytest.raises(click.ClickException) as caught:
        checked(wrong)
    for part in ("pretrain.epohcs", "`epochs`", "pretrain.batch_size", "'many'", "pretrian"):
        assert part in caught.value.message


def test_a_name_that_is_no_folder_is_refused() -> None:
    with pytest.raises(click.ClickException, match="experiment: given"):
        checked({**PARAMS, "experiment": "../up"})


def test_a_relative_root_means_the_project_in_conf_and_here_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert checked(PARAMS).load("params:dataset").root == ROOT / "images"
    assert checked(PARAMS).load("params:dataset").downloads == ROOT / "data" / "01_raw"
    given = {"dataset": {"root": "images"}}
    assert checked(PARAMS, given).load("params:dataset").root == Path("images")
    monkeypatch.chdir(ROOT)
    assert checked(PARAMS).load("params:dataset").root == Path("images")


def raised(action: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        action()
    return caught.value


def test_an_error_the_project_words_is_told_by_its_text_and_place(tmp_path: Path) -> None:
    for action, text in (
        (lambda: check_name("a b"), "experiment: given"),
        (lambda: FolderDataset(str(tmp_path / "x"), "m:K").load(), "run the stage that makes it"),
    ):
        with pytest.raises(click.ClickException, match=text) as caught:
            parameter_hooks().on_pipeline_error(raised(action))
        assert re.search(r"\(pipelines/\w+\.py:\d+\)$", caught.value.message)


def test_what_kedro_words_again_is_told_once_and_names_the_experiments(tmp_path: Path) -> None:
    for name in ("mae-1f2e-s0", "main", "half"):
        (tmp_path / name).mkdir()
    for name in ("mae-1f2e-s0", "main"):
        (tmp_path / name / "encoder.safetensors").touch()
    catalog = DataCatalog({"encoder": FolderDataset(str(tmp_path / "nosuch"), ENCODER)})
    with pytest.raises(click.ClickException) as caught:
        parameter_hooks().on_pipeline_error(raised(lambda: catalog.load("encoder")))
    sentence, place = caught.value.message.splitlines()
    assert sentence == (
        f"{tmp_path}/nosuch does not exist yet: run the stage that makes it (pretrain), "
        "or name an experiment that has an encoder: mae-1f2e-s0, main"
    )
    assert place.startswith("(pipelines/datasets.py:")
    catalog = DataCatalog({"encoder": FolderDataset(str(tmp_path / "half"), ENCODER)})
    with pytest.raises(click.ClickException, match=r"holds no encoder: manifest\.json is missing"):
        parameter_hooks().on_pipeline_error(raised(lambda: catalog.load("encoder")))
    (tmp_path / "empty").mkdir()
    first = FolderDataset(str(tmp_path / "empty" / "x"), ENCODER)
    with pytest.raises(DatasetError, match="no experiment has an encoder yet"):
        first.load()


def test_a_failed_stage_prints_its_sentence_alone(tmp_path: Path) -> None:
    """The advice to repeat a command that fails at once is no help."""
    words = ["run", "--env", "smoke", "--pipelines", "probe", "--params"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "kedro"),
            *words,
            f"experiment=nosuch,tracking=false,data={tmp_path}/data",
        ],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "Error: " in done.stderr
    assert "run the stage that makes it (pretrain)" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "No nodes ran" not in done.stderr + done.stdout


def test_any_other_error_keeps_its_traceback() -> None:
    for action in (lambda: int("x"), lambda: {}["key"]):
        assert parameter_hooks().on_pipeline_error(raised(action)) is None


def test_dvc_refuses_environments_it_cannot_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "pretrain")
    with pytest.raises(click.ClickException, match="'smoke'"):
        ParameterHooks().after_context_created(SimpleNamespace(project_path=ROOT, env="smoke"))
    assert parameter_hooks()._project == ROOT


@pytest.mark.parametrize(
    ("params", "answer"),
    [
        ("pretrain.epohcs=3", "did you mean `epochs`"),
        ("pretrain.batch_size=many", "given 'many'"),
        ("pretrian.x=1", "did you mean `pretrain`"),
        ("experiment=a/b", "experiment: given 'a/b'"),
    ],
)
def test_kedro_run_prints_the_text_and_nothing_else(
    params: str, answer: str, tmp_path: Path
) -> None:
    words = ["run", "--env", "smoke", "--params", f"{params},data={tmp_path}/data"]
    result = CliRunner().invoke(KedroCLI(ROOT), words)
    assert result.exit_code == 1
    assert answer in result.output
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output
    assert not (tmp_path / "data").exists()  # nothing was read or written


@pytest.mark.parametrize("option", ["--pipeline", "--pipelines"])
def test_both_spellings_name_a_pipeline_and_a_misspelt_one_is_answered(option: str) -> None:
    result = CliRunner().invoke(KedroCLI(ROOT), ["run", option, "pretrian"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: there is no pipeline 'pretrian'. Did you mean")


def tracked(project: Path) -> tuple[TrackingHooks, str]:
    """Hooks with an open run, and the run's id."""
    hooks = TrackingHooks()
    settings = {
        "enabled": True,
        "tracking_uri": "sqlite:///mlflow.db",
        "artifacts": "mlartifacts",
        "experiment": "contramask",
    }
    hooks.after_context_created(
        SimpleNamespace(project_path=project, env="smoke", config_loader={"mlflow": settings})
    )
    hooks.before_pipeline_run({"pipeline_names": ["probe"]}, checked(PARAMS))
    return hooks, tracking.current().run_id


def stored(project: Path, run_id: str) -> Any:
    return MlflowClient(tracking_uri=f"sqlite:///{project}/mlflow.db").get_run(run_id)


def test_a_run_holds_its_command_its_parameters_and_its_results(mlflow_project: Path) -> None:
    hooks, run_id = tracked(mlflow_project)
    row = dict.fromkeys(COLUMNS, "x") | {"method": "mae", "protocol": "linear", "readout": "mean"}
    own = row | {"metric": "linear_top1", "value": 71.5}
    rows = pd.DataFrame([own, own | {"method": "random_init", "value": 30.0}])
    hooks.after_dataset_saved("probe_output", StageOutput(rows))
    hooks.after_pipeline_run()
    run = stored(mlflow_project, run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name.endswith("-s3 probe")
    assert run.data.metrics == {
        "linear/mean/linear_top1": 71.5,
        "random_init/linear/mean/linear_top1": 30.0,
    }
    assert run.data.params["pretrain.method.mask_ratio"] == "0.75"
    assert run.data.params["seed"] == "3"
    assert run.data.tags["env"] == "smoke"
    assert run.data.tags["command"] == shlex.join(["kedro", *sys.argv[1:]])
    assert {"git.revision", "git.dirty", "experiment", "pipelines"} <= set(run.data.tags)
    assert isinstance(tracking.current(), NullTracker)


def test_a_run_names_its_data_and_results_name_their_run(mlflow_project: Path) -> None:
    hooks, run_id = tracked(mlflow_project)
    hooks._catalog = {"store": SimpleNamespace(_filepath="data/03_primary/store")}
    store = SimpleNamespace(manifest={"name": "digits", "data_hash": "ab12"})
    hooks.after_dataset_loaded("store", store)
    hooks.after_dataset_loaded("store", store)  # a second node reads them, too
    output = StageOutput()
    hooks.before_dataset_saved("probe_output", output)
    hooks.after_pipeline_run()
    (entry,) = stored(mlflow_project, run_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == ("digits", "ab12")
    assert output.facts["mlflow"] == {"run_id": run_id}


def test_dvc_sends_methods_of_tokens_where_a_tokenizer_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DVC_STAGE", "pretrain@supmim-0")
    with pytest.raises(click.ClickException, match=r"put it under experiment\.token_methods"):
        checked({**PARAMS, "pretrain": {"method": {"name": "supmim"}}})
    monkeypatch.setenv("DVC_STAGE", "pretrain_tokens@supmim-0")
    run = checked({**PARAMS, "pretrain": {"method": {"name": "supmim"}}}).load("params:experiment")
    assert run.experiment.startswith("supmim-")


def test_an_error_in_a_node_fails_the_run(mlflow_project: Path) -> None:
    hooks, run_id = tracked(mlflow_project)
    hooks.on_pipeline_error(ValueError("no"))
    run = stored(mlflow_project, run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] == "ValueError: no"


def test_a_run_left_open_in_a_notebook_was_killed(mlflow_project: Path) -> None:
    hooks, left_open = tracked(mlflow_project)
    hooks.before_pipeline_run({}, checked(PARAMS))
    hooks.after_pipeline_run()
    assert stored(mlflow_project, left_open).info.status == "KILLED"


def test_tracking_can_be_switched_off(mlflow_project: Path) -> None:
    hooks = TrackingHooks()
    conf = {"mlflow": {"enabled": False}}
    hooks.after_context_created(
        SimpleNamespace(project_path=mlflow_project, env="base", config_loader=conf)
    )
    hooks.before_pipeline_run({}, checked(PARAMS))
    assert isinstance(tracking.current(), NullTracker)
    hooks.after_pipeline_run()


STOPPED = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from kedro.io import DataCatalog, DatasetError
from contramask.results import RunInfo
from pipelines import tracking
from pipelines.datasets import FolderDataset
from pipelines.experiment import check_name
from pipelines.tracking_hooks import TrackingHooks
# A shell that starts tests in the background has SIGINT ignored; a terminal has not.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings = {"enabled": True, "tracking_uri": "sqlite:///mlflow.db", "artifacts": "mlartifacts",
            "experiment": "contramask"}
hooks = TrackingHooks()
hooks.after_context_created(SimpleNamespace(
    project_path=Path(sys.argv[1]), env="base", config_loader={"mlflow": settings}))
catalog = DataCatalog({})
catalog["params:experiment"] = RunInfo("main", "0000", 0)
hooks.before_pipeline_run({}, catalog)
tracking.current().log({"loss": 1.0}, 7)
print(tracking.current().run_id, flush=True)
os.kill(os.getpid(), getattr(signal, sys.argv[2]))
"""


def test_a_stopped_process_leaves_a_killed_run_with_its_numbers(mlflow_project: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STOPPED, str(mlflow_project), name],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for name in ("SIGTERM", "SIGINT")
    ]
    for process in processes:
        run_id = process.communicate(timeout=120)[0].strip()
        run = stored(mlflow_project, run_id)
        assert process.returncode != 0
        assert run.info.status == "KILLED"
        assert run.data.metrics == {"loss": 1.0}
