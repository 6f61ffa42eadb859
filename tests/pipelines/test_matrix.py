"""Which stages `dvc repro` runs: the real dvc.yaml, with commands that only write their outs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

SHARED = {"dataset", "crop_boxes"}
OWN = ("pretrain", "probe", "finetune", "segmentation", "detection")


@pytest.fixture
def project(stubbed_project: Path) -> Path:
    """The project of mae and cmae with one seed."""
    change(stubbed_project, "parameters", lambda p: p["experiment"].update(methods=["mae", "cmae"]))
    return stubbed_project


def change(project: Path, name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = project / "conf" / "base" / f"{name}.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def repro() -> set[str]:
    """Names of the stages that ran."""
    with Repo() as repo:
        return {stage.addressing for stage in repo.reproduce()}


def cells(*names: str, suffix: str = "") -> set[str]:
    return {f"{stage}{suffix}@{name}" for stage in OWN for name in names}


def test_only_what_a_change_concerns_runs_again(project: Path) -> None:
    assert repro() == SHARED | cells("mae-0", "cmae-0") | {"report"}
    assert repro() == set()
    change(project, "parameters_methods", lambda p: p["methods"]["cmae"].update(mask_ratio=0.6))
    assert repro() == cells("cmae-0") | {"report"}
    change(project, "parameters_methods", lambda p: p["recipes"]["mae"].update(clip_grad=1.0))
    assert repro() == cells("mae-0") | {"report"}
    change(project, "parameters_probe", lambda p: p["probe"].update(k=5))
    assert repro() == {"probe@mae-0", "probe@cmae-0", "report"}
    change(project, "parameters_launch", lambda p: p["launch"].update(device="cpu"))
    assert repro() == set()
    change(project, "parameters_pretrain", lambda p: p["pretrain"].update(epochs=17))
    assert repro() == cells("mae-0", "cmae-0") | {"report"}


def test_adding_to_the_matrix_runs_what_is_new(project: Path) -> None:
    repro()
    change(project, "parameters", lambda p: p["experiment"].update(seeds=[0, 1]))
    assert repro() == cells("mae-1", "cmae-1") | {"report"}
    change(project, "parameters", lambda p: p["experiment"].update(token_methods=["supmim"]))
    supmim = cells("supmim-0", "supmim-1", suffix="_tokens")
    assert repro() == {"tokenizer@supmim-0", "tokenizer@supmim-1", "report"} | supmim
    change(project, "parameters_tokenizer", lambda p: p["tokenizer"].update(epochs=7))
    assert repro() == {"tokenizer@supmim-0", "tokenizer@supmim-1", "report"} | supmim
