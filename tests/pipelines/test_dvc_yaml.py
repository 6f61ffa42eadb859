"""The generator of dvc.yaml, on a small project of its own and through its command."""

from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from kedro.framework.cli.cli import KedroCLI
from kedro.framework.startup import bootstrap_project

from pipelines.dvc_yaml import code_files, render

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A library of which the stage `probe` reaches all but one file."""
    files = {
        "pipelines/probe/nodes.py": "def node():\n    from contramask.transfer.probe import run\n",
        "src/contramask/__init__.py": '"""Nothing to run."""\n__version__ = "1"\n',
        "src/contramask/transfer/__init__.py": "# nothing\n",
        "src/contramask/transfer/probe.py": "from contramask import methods, typed\n",
        "src/contramask/transfer/detect.py": "import torch\n",
        "src/contramask/methods/__init__.py": "from contramask.methods.mae import MAE\n",
        "src/contramask/methods/mae.py": 'KIND = "contramask.report.page:Report"\n',
        "src/contramask/report/page.py": "",
        "src/contramask/report/report.html": "",
        "src/contramask/typed.py": "import os\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_code_is_followed_through_imports_in_functions_packages_and_strings(project: Path) -> None:
    assert code_files(project, "probe") == [
        "pipelines/probe/nodes.py",
        "src/contramask/methods/__init__.py",
        "src/contramask/methods/mae.py",
        "src/contramask/report/page.py",
        "src/contramask/report/report.html",
        "src/contramask/transfer/probe.py",
        "src/contramask/typed.py",
    ]


def test_parameters_are_named_in_the_file_that_holds_them() -> None:
    bootstrap_project(ROOT)
    stages = yaml.safe_load(render(ROOT))["stages"]
    pretrain = {
        file: keys for entry in stages["pretrain"]["params"] for file, keys in entry.items()
    }
    assert pretrain == {
        "conf/base/parameters_pretrain.yml": ["pretrain"],
        "conf/base/parameters_methods.yml": ["methods.${item.method}", "recipes.${item.method}"],
    }
    assert stages["probe"]["params"] == [{"conf/base/parameters_probe.yml": ["probe"]}]


def test_all_of_a_stages_parameters_exist_in_their_files() -> None:
    bootstrap_project(ROOT)
    for stage in yaml.safe_load(render(ROOT))["stages"].values():
        for entry in stage["params"]:
            for file, keys in entry.items():
                known = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
                for key in keys:
                    sections = key.partition(".${")[0].split(".")  # each cell has its own method
                    assert reduce(getitem, sections, known) is not None


def test_every_method_has_settings_and_a_recipe_that_dvc_can_watch() -> None:
    text = (ROOT / "conf" / "base" / "parameters_methods.yml").read_text(encoding="utf-8")
    groups = yaml.safe_load(text)
    assert set(groups["methods"]) == set(groups["recipes"])
    assert all(isinstance(recipe, dict) for recipe in groups["recipes"].values())


def test_only_methods_of_tokens_wait_for_a_tokenizer() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    made = stages["tokenizer"]["outs"][0]
    assert [name for name, stage in stages.items() if made in stage["deps"]] == ["pretrain_tokens"]
    for name, stage in stages.items():
        matrix = stage.get("matrix")
        if name in ("dataset", "crop_boxes", "report"):
            assert matrix is None
        else:
            tokens = name == "tokenizer" or name.endswith("_tokens")
            key = "token_methods" if tokens else "methods"
            assert matrix == {"method": f"${{experiment.{key}}}", "seed": "${experiment.seeds}"}


def test_numbers_and_curves_are_for_dvc_metrics_and_dvc_plots() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert stages["report"]["metrics"] == ["data/08_reporting/metrics.json"]
    (curve,) = stages["pretrain"]["plots"]
    assert curve == {
        "data/08_reporting/curves/${item.method}-s${item.seed}.csv": {
            **{"title": "Pre-training", "x": "step", "y": "loss"}
        }
    }


def test_check_fails_on_an_old_file_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    monkeypatch.setattr("pipelines.dvc_yaml.render", lambda root: before)
    fresh = CliRunner().invoke(KedroCLI(ROOT), ["dvc-yaml", "--check"])
    monkeypatch.setattr("pipelines.dvc_yaml.render", lambda root: "stages: {}")
    stale = CliRunner().invoke(KedroCLI(ROOT), ["dvc-yaml", "--check"])
    assert (fresh.exit_code, stale.exit_code) == (0, 1)
    assert "run `kedro dvc-yaml`" in stale.output
    assert (ROOT / "dvc.yaml").read_text(encoding="utf-8") == before
