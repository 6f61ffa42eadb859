"""Shared by the wiring's tests: an MLflow database, and a project whose stages take no time."""

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

ROOT = Path(__file__).parents[2]
#: Stages that `dvc repro` treats like `probe`; CONTRAMASK_SLOW_TESTS=1 runs them, too.
LEFT_OUT = () if os.environ.get("CONTRAMASK_SLOW_TESTS") else ("finetune", "segmentation")
OWN = {"pretrain", "probe", "finetune", "segmentation", "detection"} - set(LEFT_OUT)


def outs_of(stage: dict[str, Any]) -> list[str]:
    """The files and folders a stage of dvc.yaml makes."""
    entries = [entry for key in ("outs", "metrics", "plots") for entry in stage.get(key, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


@dataclass
class DvcProject:
    """A project under DVC, and which stages its first `dvc repro` ran."""

    path: Path
    ran: set[str] = field(default_factory=set)

    def change(self, name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
        """Edit a file of parameters."""
        path = self.path / "conf" / "base" / f"{name}.yml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        edit(values)
        path.write_text(yaml.safe_dump(values), encoding="utf-8")

    def repro(self) -> set[str]:
        """Names of the stages that `dvc repro` ran."""
        from dvc.repo import Repo

        with contextlib.chdir(self.path), Repo() as repo:
            return {stage.addressing for stage in repo.reproduce()}

    def cells(self, *names: str, suffix: str = "") -> set[str]:
        """Every stage an experiment has of its own."""
        return {f"{stage}{suffix}@{name}" for stage in OWN for name in names}


@pytest.fixture(scope="session")
def reproduced_project(tmp_path_factory: pytest.TempPathFactory) -> DvcProject:
    """A project in which `dvc repro` ran once for mae and cmae.

    It has the project's dvc.yaml and conf/base; the commands only write something new to every
    out. Code is left out of the dependencies: hashing it for every stage takes most of DVC's time.
    """
    from dvc.repo import Repo

    project = DvcProject(tmp_path_factory.mktemp("dvc") / "project")
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for name in list(tree["stages"]):
        if name.removesuffix("_tokens") in LEFT_OUT:
            del tree["stages"][name]
    for stage in tree["stages"].values():
        stage["deps"] = [path for path in stage["deps"] if path.startswith("data/")]
        stage["cmd"] = f": {stage['cmd']}; {writing(outs_of(stage))}"
    shutil.copytree(ROOT / "conf" / "base", project.path / "conf" / "base")
    project.change("parameters", lambda p: p["experiment"].update(methods=["mae", "cmae"]))
    (project.path / "dvc.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    Repo.init(str(project.path), no_scm=True).close()
    project.ran = project.repro()
    return project


@pytest.fixture
def stubbed_project(
    reproduced_project: DvcProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> DvcProject:
    """A copy of the reproduced project, which is the working directory."""
    project = DvcProject(tmp_path / "project", reproduced_project.ran)
    shutil.copytree(reproduced_project.path, project.path)
    monkeypatch.chdir(project.path)
    return project


def writing(outs: list[str]) -> str:
    """A shell command that writes something new to each out, with one process besides the shell."""
    folders = " ".join(sorted({str(Path(out).parent) for out in outs}))
    return f"mkdir -p {folders}; for out in {' '.join(outs)}; do echo $$ > $out; done"


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
