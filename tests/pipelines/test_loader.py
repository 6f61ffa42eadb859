"""The catalog's paths, by experiment, environment and `--params data=...`."""

import re
from pathlib import Path
from typing import Any

import click
import pytest
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project

from pipelines.experiment import experiment_name
from pipelines.loader import ExperimentConfigLoader

ROOT = Path(__file__).parents[2]


def loader(env: str = "base", **runtime_params: Any) -> ExperimentConfigLoader:
    bootstrap_project(ROOT)
    return ExperimentConfigLoader(
        str(ROOT / "conf"), env=env, runtime_params=runtime_params, **settings.CONFIG_LOADER_ARGS
    )


def test_the_experiments_name_comes_from_the_parameters() -> None:
    conf = loader()
    name = experiment_name(conf["parameters"])
    assert conf["catalog"]["encoder"]["filepath"] == f"data/06_models/{name}"
    assert name.count("-") == 2


def test_a_given_name_moves_the_folder() -> None:
    conf = loader(experiment="main")
    assert conf["catalog"]["encoder"]["filepath"] == "data/06_models/main"
    assert conf["catalog"]["{stage}_output"]["filepath"] == "data/07_model_output/main/{stage}"


def test_an_environment_that_is_not_there_is_answered() -> None:
    with pytest.raises(click.ClickException) as caught:
        loader("smok")["parameters"]
    assert caught.value.message.startswith(
        "there is no environment 'smok'. Did you mean `smoke`? There are: "
    )
    assert {"base", "local", "smoke"} <= set(re.findall(r"\w+", caught.value.message))
    assert "\n" not in caught.value.message


def test_two_loaders_do_not_share_a_name() -> None:
    first, second = loader(experiment="one"), loader(experiment="two")
    assert first["catalog"]["encoder"]["filepath"].endswith("/one")
    assert second["catalog"]["encoder"]["filepath"].endswith("/two")
    assert first["catalog"]["encoder"]["filepath"].endswith("/one")


@pytest.mark.parametrize(
    ("env", "root"),
    [
        ("base", "data"),
        ("local", "data"),
        ("smoke", "data/smoke"),
        ("tiny_imagenet", "data/tiny_imagenet"),
        ("folder", "data/folder"),
    ],
)
def test_each_environment_keeps_its_files_apart(env: str, root: str) -> None:
    paths = [entry["filepath"] for entry in loader(env)["catalog"].values()]
    assert paths
    assert all(path.startswith(f"{root}/0") for path in paths)


def test_all_files_move_with_one_parameter(tmp_path: Path) -> None:
    paths = [entry["filepath"] for entry in loader("smoke", data=str(tmp_path))["catalog"].values()]
    assert all(path.startswith(str(tmp_path)) for path in paths)


def test_environments_change_single_keys_and_keep_their_neighbours() -> None:
    base, smoke = loader()["parameters"], loader("smoke")["parameters"]
    assert base.keys() <= smoke.keys()
    assert loader("smoke")["mlflow"].keys() == loader()["mlflow"].keys()


def test_a_chosen_method_brings_its_settings_and_only_its_own() -> None:
    def method(**keys: Any) -> dict[str, Any]:
        return loader(pretrain={"method": keys})["parameters"]["pretrain"]["method"]

    mae, cmae = method(name="mae", mask_ratio=0.6), method(name="cmae", temperature=0.2)
    assert (mae["name"], mae["mask_ratio"]) == ("mae", 0.6)
    assert (cmae["name"], cmae["temperature"]) == ("cmae", 0.2)
    assert mae.keys() == {"name", "mask_ratio", "decoder"}
    assert {"decoder", "feature_decoder", "head_out_dim"} <= cmae.keys()
    assert "methods" not in loader()["parameters"]


def test_a_named_run_continues_only_work_of_the_same_recipe() -> None:
    one, other = loader(experiment="main"), loader(experiment="main", seed=1)
    assert one["catalog"]["encoder"] == other["catalog"]["encoder"]
    assert one["catalog"]["pretrain_work"] != other["catalog"]["pretrain_work"]
