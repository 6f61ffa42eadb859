"""The project as a whole: where things lie, which way imports point, what DVC is told."""

import ast
import importlib.metadata
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.startup import bootstrap_project
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "src" / "contramask"
LAYERS = [
    "01_raw",
    "02_intermediate",
    "03_primary",
    "04_feature",
    "05_model_input",
    "06_models",
    "07_model_output",
    "08_reporting",
]
#: Parts of the library from the ground up; a part imports from its own floor and those below.
FLOORS: dict[str, int] = {
    **dict.fromkeys(["typed", "draws", "results", "tracker", "progress", "startup", "failures"], 0),
    **dict.fromkeys(["masking", "losses", "ema"], 0),
    **dict.fromkeys(["data", "report"], 1),
    "models": 2,
    **dict.fromkeys(["methods", "boxes"], 3),
    **dict.fromkeys(["train", "interop"], 4),
    "transfer": 5,
    **dict.fromkeys(["config", "bench"], 6),
    **dict.fromkeys(["commands", "cli"], 7),
}
#: On one floor, but not to be mixed: a report reads the data, never the other way round.
FORBIDDEN_EDGES = {("data", "report")}


def imported(path: Path) -> Iterator[str]:
    """Dotted names a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "contramask":
                yield from (f"contramask.{alias.name}" for alias in node.names)
            else:
                yield node.module


def part_of(path: Path) -> str:
    """The library's part a file belongs to: its folder, or its own name at the top."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def library_files() -> list[Path]:
    return [p for p in sorted(LIBRARY.rglob("*.py")) if p != LIBRARY / "__init__.py"]


def test_imports_point_down() -> None:
    wrong = []
    for path in library_files():
        here = part_of(path)
        for module in imported(path):
            package, _, rest = module.partition(".")
            if package != "contramask" or not rest or rest.startswith("__"):
                continue
            there = rest.split(".")[0]
            if FLOORS[there] > FLOORS[here] or (here, there) in FORBIDDEN_EDGES:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong


@pytest.mark.parametrize("tool", ["kedro", "mlflow", "dvc", "pipelines"])
def test_the_library_knows_no_workflow_tool(tool: str) -> None:
    users = [p.name for p in library_files() if any(m.split(".")[0] == tool for m in imported(p))]
    assert users == []


def test_one_stage_never_imports_another() -> None:
    stages = {p.parent.name for p in (ROOT / "pipelines").glob("*/nodes.py")}
    for path in (ROOT / "pipelines").glob("*/*.py"):
        others = stages - {path.parent.name}
        assert not {m for m in imported(path) if m.split(".")[1:2] and m.split(".")[1] in others}


#: Packages under the AGPL that offer what this project needs, and would bind it to that licence.
AGPL = ["albumentationsx", "ultralytics", "lightly-train"]


@pytest.mark.parametrize("name", AGPL)
def test_packages_under_agpl_are_not_installed(name: str) -> None:
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version(name)


def required_packages(project: dict[str, Any]) -> set[str]:
    """Names of all packages a pyproject asks for: itself, its extras, its groups, to build."""
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for optional in (project["project"]["optional-dependencies"], project["dependency-groups"]):
        # A group may include another one by a table.
        asked += [each for group in optional.values() for each in group if isinstance(each, str)]
    return {canonicalize_name(Requirement(each).name) for each in asked}


def test_packages_under_agpl_are_no_dependency_and_no_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = required_packages(project)
    assert {"torch", "lightly", "onnx", "mkdocs", "pytest", "moto", "setuptools"} <= names
    assert not names & set(AGPL)
    extras = project["project"]["optional-dependencies"]
    extras["more"] = ["Lightly_Train[all]>=0.4; python_version > '3'"]
    assert required_packages(project) & set(AGPL) == {"lightly-train"}


def test_data_has_its_eight_layers_and_git_keeps_them_empty() -> None:
    assert sorted(p.name for p in (ROOT / "data").glob("0*")) == LAYERS
    assert all((ROOT / "data" / layer / ".gitkeep").is_file() for layer in LAYERS)


def test_nothing_is_sent_anywhere() -> None:
    assert yaml.safe_load((ROOT / ".telemetry").read_text(encoding="utf-8")) == {"consent": False}
    dvc = (ROOT / ".dvc" / "config").read_text(encoding="utf-8")
    assert "analytics = false" in dvc
    assert "check_update = false" in dvc


def test_no_drawer_is_called_utils() -> None:
    drawers = {"utils", "helpers", "common", "misc"}
    found = [p for top in ("src", "pipelines", "tests") for p in (ROOT / top).rglob("*")]
    assert not [p for p in found if p.stem in drawers]


def test_dvc_yaml_is_what_the_generator_makes() -> None:
    from pipelines.dvc_yaml import render

    bootstrap_project(ROOT)
    committed = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert committed == render(ROOT), "run `kedro dvc-yaml` and commit dvc.yaml"


def test_dvc_chains_the_stages_and_leaves_work_in_progress_alone() -> None:
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    stages = yaml.safe_load(text)["stages"]
    own = ["pretrain", "probe", "finetune", "segmentation", "detection"]
    tokens = ["tokenizer", *(f"{name}_tokens" for name in own)]
    assert list(stages) == ["dataset", "crop_boxes", *own, *tokens, "report"]
    assert ".work" not in text
    for name, stage in stages.items():
        pipeline = name.removesuffix("_tokens")
        assert stage["cmd"].startswith(f"kedro run --pipelines {pipeline} --params experiment.name")
        assert stage["outs"]
        assert f"pipelines/{pipeline}/nodes.py" in stage["deps"]
    assert stages["dataset"]["outs"][-1] in stages["pretrain"]["deps"]
    assert stages["pretrain"]["outs"][0] in stages["probe"]["deps"]
    assert "data/07_model_output" in stages["report"]["deps"]
    assert "src/contramask/train/pretrain.py" in stages["pretrain"]["deps"]
    assert "src/contramask/report/report.html" in stages["report"]["deps"]
