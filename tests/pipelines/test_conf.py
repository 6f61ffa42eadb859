"""What stands in conf/: every environment can be run with every method."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project

from contramask.config import parse_parameters
from contramask.methods import MethodConfig
from pipelines.hooks import OWN_PARAMETERS
from pipelines.loader import ExperimentConfigLoader

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = sorted(p.name for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "local")
METHODS = [kind().name for kind in get_args(get_args(MethodConfig)[0])]


def parsed(env: str, **runtime_params: Any) -> dict[str, Any]:
    bootstrap_project(ROOT)
    loader = ExperimentConfigLoader(
        str(ROOT / "conf"), env=env, runtime_params=runtime_params, **settings.CONFIG_LOADER_ARGS
    )
    sections = {k: v for k, v in loader["parameters"].items() if k not in OWN_PARAMETERS}
    return parse_parameters(sections)


def test_every_method_has_settings() -> None:
    text = (ROOT / "conf" / "base" / "parameters_methods.yml").read_text(encoding="utf-8")
    assert sorted(yaml.safe_load(text)["methods"]) == sorted(METHODS)


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_environment_can_be_run(env: str) -> None:
    assert parsed(env)["pretrain"].epochs >= 1


@pytest.mark.parametrize("env", [env for env in ENVIRONMENTS if env.startswith(("paper", "code"))])
def test_published_recipes_take_nothing_from_the_demo(env: str) -> None:
    typed = parsed(env)
    assert typed["finetune"].train_limit is None
    assert typed["finetune"].epochs == 100
    assert (typed["finetune"].flip, typed["pretrain"].views.flip) == (0.5, 0.5)
    assert typed["pretrain"].encoder.arch == "vit_base"
    if typed["pretrain"].method.name == "supmim":
        assert typed["tokenizer"].flip == 0.5


@pytest.mark.parametrize("env", ["paper_mae", "paper_conmim"])
def test_published_fine_tuning_has_its_rand_augment(env: str) -> None:
    assert parsed(env)["finetune"].rand_augment == "rand-m9-mstd0.5-inc1"


@pytest.mark.parametrize("env", ["base", "smoke", "tiny_imagenet", "folder"])
def test_a_method_brings_its_codes_colours_and_optimiser(env: str) -> None:
    cmae, mao, conmim = (
        parsed(env, pretrain={"method": {"name": name}})["pretrain"]
        for name in ("cmae", "cmae_mao", "conmim")
    )
    colours = [(c.saturation, c.blur, c.solarise) for c in (x.views.colour for x in (cmae, mao))]
    assert colours == [(0.4, 0.5, 0.0), (0.2, 0.0, 0.0)]
    colour = conmim.views.colour
    assert (colour.saturation, colour.blur, colour.solarise) == (0.2, 0.1, 0.2)
    assert (conmim.betas, conmim.exempt, conmim.clip_grad) == ((0.9, 0.98), "beit", 1.0)
    assert (cmae.betas, cmae.exempt, cmae.clip_grad) == ((0.9, 0.95), "one_dim", None)
    views = {"colour": {"blur": 0.3}}
    own = parsed(env, pretrain={"method": {"name": "conmim"}, "views": views, "clip_grad": 3.0})
    assert own["pretrain"].clip_grad == 3.0
    assert (own["pretrain"].views.colour.blur, own["pretrain"].views.colour.solarise) == (0.3, 0.2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("env", ["base", "smoke", "tiny_imagenet", "folder"])
def test_every_method_can_be_chosen_by_its_name(env: str, method: str) -> None:
    typed = parsed(env, pretrain={"method": {"name": method}})
    assert typed["pretrain"].method.name == method
    decoder = getattr(typed["pretrain"].method, "decoder", None)
    assert decoder is None or decoder.embed_dim <= 128  # the paper's 512 is for ViT-B


def test_the_environments_change_the_data_they_are_named_after() -> None:
    assert parsed("base")["dataset"].source == "digit_scenes"
    assert parsed("smoke")["dataset"].scenes.num_train == 600
    tiny = parsed("tiny_imagenet")
    assert (tiny["dataset"].source, tiny["dataset"].image_size) == ("tiny_imagenet", (64, 64))
    assert tiny["pretrain"].encoder.patch_size == 8
    assert parsed("folder")["dataset"].labels == "none"
