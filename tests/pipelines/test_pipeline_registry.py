"""The stages: their names, their order, and that the catalog offers what they read."""

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest
from kedro.framework.project import pipelines, settings
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from pipelines.hooks import OWN_PARAMETERS
from pipelines.loader import ExperimentConfigLoader
from pipelines.pipeline_registry import register_pipelines

ROOT = Path(__file__).parents[2]
NAMES = [
    "dataset",
    "crop_boxes",
    "tokenizer",
    "pretrain",
    "probe",
    "finetune",
    "segmentation",
    "detection",
    "report",
]


def test_the_nine_stages_and_all_of_them() -> None:
    found = register_pipelines()
    assert list(found) == [*NAMES, "__default__"]
    assert len(found["__default__"].nodes) == sum(len(found[name].nodes) for name in NAMES)


def test_kedro_finds_them() -> None:
    bootstrap_project(ROOT)
    assert set(pipelines) == {*NAMES, "__default__"}


def test_the_whole_chain_starts_from_nothing_but_parameters_and_places() -> None:
    free = register_pipelines()["__default__"].inputs()
    places = {name for name in free if not name.startswith("params:")}
    assert places == {"store_work", "tokenizer_work", "pretrain_work", "boxes_folder"} | {
        *("results_folder", "features_work", "probe_work"),
        *("finetune_work", "segmentation_work", "detection_work"),
    }


def test_the_report_comes_last() -> None:
    order = [node.name for node in register_pipelines()["__default__"].nodes]
    assert order[0] == "build_store"
    assert order[-2:] == ["write_report", "summarise_results"]
    assert order.index("make_tokenizer") < order.index("pretrain_encoder")
    assert order.index("pretrain_encoder") < order.index("probe_encoder")


@pytest.mark.parametrize("name", NAMES)
def test_the_catalog_offers_what_a_stage_reads_and_keeps_what_it_makes(name: str) -> None:
    bootstrap_project(ROOT)
    conf = ExperimentConfigLoader(str(ROOT / "conf"), env="base", **settings.CONFIG_LOADER_ARGS)
    catalog = DataCatalog.from_config(conf["catalog"])
    stage: Pipeline = register_pipelines()[name]
    for dataset in stage.inputs() | stage.outputs():
        if dataset.startswith("params:"):
            section = dataset.removeprefix("params:").split(".")[0]
            assert section in conf["parameters"] or section in OWN_PARAMETERS
        else:
            assert dataset in catalog, f"{dataset} is not in conf/base/catalog.yml"


@pytest.mark.parametrize(
    ("wrong", "answer"),
    [("pretrian", "Did you mean `pretrain`?"), ("xyz", "There are: dataset, crop_boxes")],
)
def test_a_misspelt_name_is_answered(wrong: str, answer: str) -> None:
    with pytest.raises(click.ClickException, match="there is no pipeline") as caught:
        register_pipelines()[wrong]
    assert answer in caught.value.message


def test_nothing_heavy_is_imported_to_know_the_stages() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from kedro.framework.startup import bootstrap_project\n"
        "from kedro.framework.project import pipelines, settings\n"
        "bootstrap_project(Path.cwd())\n"
        "assert len(pipelines) == 10 and settings.HOOKS\n"
        "heavy = {'torch', 'timm', 'mlflow', 'pandas', 'numpy', 'matplotlib', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_nodes_are_wiring_only(name: str) -> None:
    tree = ast.parse((ROOT / "pipelines" / name / "nodes.py").read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert functions
    for function in functions:
        body = function.body[1:]  # without the docstring
        assert body[-1].end_lineno - body[0].lineno < 15
        assert not [n for n in ast.walk(function) if isinstance(n, ast.For | ast.While | ast.If)]
