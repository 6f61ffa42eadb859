"""The ladder from MAE to CMAE-Mao: every rung changes what it says and nothing else."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project

from contramask.config import parse_parameters
from contramask.typed import to_plain
from pipelines.experiment import experiment_name
from pipelines.hooks import OWN_PARAMETERS
from pipelines.loader import ExperimentConfigLoader

ROOT = Path(__file__).parents[2]
TOP = "mao_4_contrastive"
METHOD = "pretrain.method."
VIEWS = "pretrain.views."
COLOUR = {VIEWS + "colour.blur", VIEWS + "colour.saturation"}
DECODER = {METHOD + "decoder." + key for key in ("embed_dim", "depth", "num_heads")}
MODEL_BOXES = {"crop_boxes.method", "crop_boxes.encoder", VIEWS + "crop"}

#: (rung, the one below, what differs).
STEPS = [
    ("mao_1_small_decoder", "mao_0_mae", DECODER),
    ("mao_3_two_views", "mao_2_position", {METHOD + "view_mode"}),
    (TOP, "mao_3_two_views", {METHOD + "con_site"}),
    ("mao_5_full_box", TOP, {VIEWS + "crop"}),
    (
        "mao_5_model_boxes_uniform",
        TOP,
        MODEL_BOXES | {VIEWS + "box_alpha"},
    ),
    ("mao_5_model_boxes", TOP, MODEL_BOXES),
    ("mao_5_shuffled_boxes", "mao_5_model_boxes", {"crop_boxes.deal"}),
    ("mao_5_gt_boxes", TOP, {"crop_boxes.method", VIEWS + "crop"}),
    ("mao_5_inside_boxes", "mao_5_model_boxes", {VIEWS + "crop"}),
]
RUNGS = sorted(path.name for path in (ROOT / "conf").glob("mao_*"))


def parameters(env: str, **given: Any) -> dict[str, Any]:
    bootstrap_project(ROOT)
    loader = ExperimentConfigLoader(
        str(ROOT / "conf"), env=env, runtime_params=given, **settings.CONFIG_LOADER_ARGS
    )
    return loader["parameters"]


@cache
def typed(env: str) -> dict[str, Any]:
    """What an environment amounts to, defaults included, as `section.key.key` -> value."""
    sections = {k: v for k, v in parameters(env).items() if k not in OWN_PARAMETERS}
    found = parse_parameters(sections)
    plain = {k: v if isinstance(v, int) else to_plain(v) for k, v in found.items()}
    return dict(flat(plain, ""))


def flat(value: Any, prefix: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix[:-1], value)]
    return [pair for key, each in value.items() for pair in flat(each, f"{prefix}{key}.")]


def differing(one: str, two: str) -> set[str]:
    first, second = typed(one), typed(two)
    return {key for key in first | second if first.get(key) != second.get(key)}


@pytest.mark.parametrize(("rung", "below", "keys"), STEPS, ids=[step[0] for step in STEPS])
def test_a_rung_differs_from_the_one_below_in_one_thing(
    rung: str, below: str, keys: set[str]
) -> None:
    assert differing(rung, below) == keys


def test_positions_are_added_to_the_same_mae() -> None:
    below, rung = typed("mao_1_small_decoder"), typed("mao_2_position")
    common = below.keys() & rung.keys()
    # Colours come with the method; a single view has none.
    assert {key for key in common if below[key] != rung[key]} == {METHOD + "name"} | COLOUR
    assert DECODER | {METHOD + "mask_ratio", METHOD + "norm_pix_loss"} < common
    assert rung[METHOD + "view_mode"] == "single"
    assert rung[METHOD + "con_site"] == "none"
    assert rung[METHOD + "freeze_patch_embed"] is False


@pytest.mark.parametrize("rung", RUNGS)
def test_rungs_share_the_images_and_keep_their_results_apart(rung: str) -> None:
    assert rung in {step[0] for step in STEPS} | {"mao_0_mae", "mao_2_position"}
    text = (ROOT / "conf" / rung / "globals.yml").read_text(encoding="utf-8")
    own = yaml.safe_load(text)
    assert own["data"] == "data/tiny_imagenet"
    # What the demo trims must not leak in.
    assert typed(rung)["finetune.train_limit"] is None
    assert list(typed(rung)[VIEWS + "crop_scale"]) == [0.2, 1.0]
    uses_boxes = typed(rung)[VIEWS + "crop"] in ("boxes", "inside_boxes")
    assert ("boxes" in own) == uses_boxes
    assert experiment_name(parameters(rung)) == f"{rung}-s0"
    assert experiment_name(parameters(rung, seed=3)) == f"{rung}-s3"
    head = (ROOT / "conf" / rung / "parameters.yml").read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith(f"# kedro run --env {rung} ")
    assert ("crop_boxes,pretrain" in head) == uses_boxes


def test_the_authors_conventions() -> None:
    paper = typed("paper_cmae_mao")
    assert paper["pretrain.encoder.arch"] == "vit_base"
    assert paper["pretrain.image_size"] == 224
    assert paper[METHOD + "name"] == "cmae_mao"
    assert paper[VIEWS + "crop"] == "boxes"
    assert paper["finetune.train_limit"] is None
