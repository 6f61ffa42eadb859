"""Shared by the wiring's tests: an MLflow database, and a project whose stages take no time."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

ROOT = Path(__file__).parents[2]


def outs_of(stage: dict[str, Any]) -> list[str]:
    """The files and folders a stage of dvc.yaml makes."""
    entries = [entry for key in ("outs", "metrics", "plots") for entry in stage.get(key, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


@pytest.fixture
def stubbed_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's dvc.yaml and conf/base; the commands only write something new to every out.

    Code is left out of the dependencies: hashing it for every stage takes most of DVC's time.
    """
    from dvc.repo import Repo

    project = tmp_path / "project"
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in tree["stages"].values():
        stage["deps"] = [path for path in stage["deps"] if path.startswith("data/")]
        write = [f"mkdir -p $(dirname {o}) && date +%s%N > {o}" for o in outs_of(stage)]
        stage["cmd"] = " && ".join([f": {stage['cmd']}", *write])
    shutil.copytree(ROOT / "conf" / "base", project / "conf" / "base")
    (project / "dvc.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    monkeypatch.chdir(project)
    Repo.init(no_scm=True).close()
    return project


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, which take a second to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def mlflow_project(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with an MLflow database of its own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path
