"""Presets: every one can be used, states its whole recipe, and bows to what one says oneself."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project

from contramask.config import SECTIONS, parse_parameters
from contramask.typed import parse
from pipelines.hooks import OWN_PARAMETERS
from pipelines.loader import ExperimentConfigLoader

ROOT = Path(__file__).parents[2]
BASE = ROOT / "conf" / "base"
PRESETS = yaml.safe_load((BASE / "parameters_presets.yml").read_text(encoding="utf-8"))["presets"]
PRESET = "preset"
ALL = [(section, name) for section, known in PRESETS.items() for name in known]


def parameters(env: str, conf: Path = ROOT / "conf", **runtime: Any) -> dict[str, Any]:
    bootstrap_project(ROOT)
    loader = ExperimentConfigLoader(
        str(conf), env=env, runtime_params=runtime, **settings.CONFIG_LOADER_ARGS
    )
    return loader["parameters"]


def parsed(env: str, **runtime: Any) -> dict[str, Any]:
    found = parameters(env, **runtime)
    return parse_parameters({k: v for k, v in found.items() if k not in OWN_PARAMETERS})


def test_sizes_and_families_are_there() -> None:
    assert {section: sorted(known) for section, known in PRESETS.items()} == {
        "finetune": [
            *("conmim_base", "conmim_large", "mae_base", "mae_huge", "mae_large", "mae_small")
        ],
        "segmentation": ["beit_base", "beit_large", "mae_base", "mae_large"],
        "detection": ["vitdet_base", "vitdet_huge", "vitdet_large"],
    }


@pytest.mark.parametrize(("section", "name"), ALL)
def test_every_preset_is_checked_and_takes_nothing_from_the_demo(section: str, name: str) -> None:
    typed = asdict(parsed("base", **{section: {PRESET: name}})[section])
    alone = asdict(parse(SECTIONS[section], PRESETS[section][name], section))
    if section == "segmentation":
        alone["linear"] = typed["linear"]  # a head that the protocol does not have
    assert typed == alone
    file = BASE / f"parameters_{section}.yml"
    demo = yaml.safe_load(file.read_text(encoding="utf-8"))[section]
    assert set(demo) - set(PRESETS[section][name]) <= {"linear"}


@pytest.mark.parametrize(
    ("section", "name", "env"),
    [
        ("finetune", "mae_base", "paper_mae"),
        ("finetune", "conmim_base", "paper_conmim"),
        ("segmentation", "mae_base", "ade20k_upernet"),
        ("detection", "vitdet_base", "coco_vitdet"),
    ],
)
def test_environments_of_papers_and_presets_say_the_same(section: str, name: str, env: str) -> None:
    own = asdict(parsed(env)[section])
    preset = asdict(parsed("base", **{section: {PRESET: name}})[section])
    if section == "segmentation":
        own["linear"] = preset["linear"]  # not among the heads
    assert own == preset


def test_the_tables_by_size() -> None:
    def tune(name: str) -> tuple[float, ...]:
        found = parsed("base", finetune={PRESET: name})["finetune"]
        rate = found.base_lr * found.batch_size / 256
        return rate, found.layer_decay, found.drop_path, found.epochs

    assert tune("mae_base") == (2e-3, 0.65, 0.1, 100)
    assert tune("mae_large") == (4e-3, 0.75, 0.2, 50)
    assert tune("mae_huge") == (4e-3, 0.75, 0.3, 50)
    assert tune("conmim_base") == (4e-3, 0.65, 0.1, 100)
    assert tune("conmim_large") == (1e-3, 0.75, 0.2, 50)

    def detector(name: str) -> tuple[Any, ...]:
        found = parsed("base", detection={PRESET: name})["detection"]
        blocks = found.detector.global_blocks
        return found.tune.layer_decay, found.tune.drop_path, blocks

    assert detector("vitdet_base") == (0.7, 0.1, (2, 5, 8, 11))
    assert detector("vitdet_large") == (0.8, 0.4, (5, 11, 17, 23))
    assert detector("vitdet_huge") == (0.9, 0.5, (7, 15, 23, 31))


def test_keys_of_ones_own_win_and_an_environment_keeps_the_rest() -> None:
    found = parsed("nuclei", detection={PRESET: "vitdet_large", "tune": {"epochs": 3}})["detection"]
    assert (found.tune.epochs, found.tune.layer_decay) == (3, 0.8)
    assert found.upscale == parsed("nuclei")["detection"].upscale  # no preset speaks of it
    assert PRESET not in parameters("base", finetune={PRESET: "mae_base"})["finetune"]
    assert "presets" not in parameters("base")


def test_a_preset_named_in_a_file_lies_under_its_neighbours(tmp_path: Path) -> None:
    for env in ("base", "mine"):
        (tmp_path / env).mkdir()
    base = {
        "presets": {"finetune": {"a": {"epochs": 100, "flip": 0.5}}},
        "finetune": {"epochs": 4, "flip": 0.0, "train_limit": 10},
    }
    mine = {"finetune": {PRESET: "a", "epochs": 20}}
    for env, values in (("base", base), ("mine", mine)):
        (tmp_path / env / "parameters.yml").write_text(yaml.safe_dump(values), encoding="utf-8")
    found = parameters("mine", tmp_path)["finetune"]
    assert found == {"epochs": 20, "flip": 0.5, "train_limit": 10}
    assert parameters("mine", tmp_path, finetune={"flip": 0.1})["finetune"]["flip"] == 0.1
    assert parameters("base", tmp_path)["finetune"] == base["finetune"]


def test_an_unknown_preset_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        click.ClickException, match=r"finetune\.preset: given 'mae_larg'.*mae_large"
    ):
        parameters("base", finetune={PRESET: "mae_larg"})
