"""The configuration as a whole: every mistake at once, and defaults for what is left out."""

import pytest

from contramask.config import SECTIONS, parse_parameters
from contramask.data.config import DatasetConfig
from contramask.methods.cmae import CMAEConfig
from contramask.methods.mae import MAEConfig
from contramask.typed import ConfigError


def mistakes(parameters: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as error:
        parse_parameters(parameters)
    first, *lines = str(error.value).splitlines()
    assert first == "the configuration cannot be used:"
    assert all(line.startswith("  - ") for line in lines)
    return [line.removeprefix("  - ") for line in lines]


@pytest.mark.parametrize("parameters", [{}, {"pretrain": None}, {"dataset": {}, "report": {}}])
def test_sections_left_out_take_their_defaults(parameters: dict[str, object]) -> None:
    typed = parse_parameters(parameters)
    assert set(typed) == {*SECTIONS, "seed"}
    assert typed["seed"] == 0
    for name, kind in SECTIONS.items():
        assert typed[name] == kind()
    assert isinstance(typed["pretrain"].method, CMAEConfig)


def test_values_reach_their_section() -> None:
    typed = parse_parameters(
        {
            "seed": 4,
            "dataset": {"image_size": 64, "limit": 10},
            "pretrain": {"method": {"name": "mae", "mask_ratio": 0.6}, "epochs": 3},
            "probe": {"k": 3},
            "launch": {"device": "cpu"},
        }
    )
    assert typed["seed"] == 4
    assert typed["dataset"] == DatasetConfig(image_size=64, limit=10)
    assert typed["pretrain"].method == MAEConfig(mask_ratio=0.6)
    assert typed["pretrain"].epochs == 3
    assert typed["probe"].k == 3
    assert typed["launch"].device == "cpu"


def test_every_mistake_of_every_section_is_listed_at_once() -> None:
    found = mistakes(
        {
            "pretrian": {"epochs": 3},
            "dataset": {"image_size": 4, "sourse": "folder"},
            "pretrain": {
                "epochs": 0,
                "method": {"name": "cmae", "temprature": 0.1},
                "views": {"flip": 2, "colour": {"hue": 0.9}},
            },
            "probe": {"k": "many"},
            "finetune": {"drop_path": 1},
            "segmentation": {"nonsense": 1},
            "detection": {"nonsense": 1},
            "crop_boxes": {"method": "magic"},
            "report": [1],
            "launch": {"device": "tpu"},
            "seed": -1,
        }
    )
    for expected in (
        "pretrian: there is no such key; did you mean `pretrain`?",
        "dataset.image_size: given 4",
        "dataset.sourse: there is no such key; did you mean `source`?",
        "pretrain.epochs: given 0",
        "pretrain.method.temprature: there is no such key; did you mean `temperature`?",
        "pretrain.views.flip: given 2",
        "pretrain.views.colour.hue: given 0.9",
        "probe.k: given 'many'",
        "finetune.drop_path: given 1",
        "segmentation.nonsense: there is no such key",
        "detection.nonsense: there is no such key",
        "crop_boxes.method: given 'magic'",
        "report: given [1], a group of keys is expected here",
        "launch.device: given 'tpu'",
        "seed: given -1, a whole number from 0 to 2147483647 is expected",
    ):
        assert [line for line in found if line.startswith(expected)], expected
    assert len(found) == 15


def test_an_unknown_key_names_all_there_are() -> None:
    (line,) = mistakes({"xyzzy": 1})
    assert line.startswith("xyzzy: there is no such key; allowed here: dataset, crop_boxes")
    assert line.endswith("launch, seed")


@pytest.mark.parametrize("section", [0, False, [], "", 3, "epochs=3", [{"epochs": 3}]])
def test_a_section_is_a_group_of_keys(section: object) -> None:
    (line,) = mistakes({"pretrain": section})
    assert line == f"pretrain: given {section!r}, a group of keys is expected here"


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_seeds(seed: int) -> None:
    assert parse_parameters({"seed": seed})["seed"] == seed


@pytest.mark.parametrize("seed", [-1, 2**31, 1.0, "1", True, None])
def test_what_is_no_seed(seed: object) -> None:
    (line,) = mistakes({"seed": seed})
    assert line.startswith(f"seed: given {seed!r}, a whole number")


def test_the_parameters_are_left_as_they_are() -> None:
    parameters = {"pretrain": {"method": {"name": "mae"}}, "probe": None}
    parse_parameters(parameters)
    assert parameters == {"pretrain": {"method": {"name": "mae"}}, "probe": None}
