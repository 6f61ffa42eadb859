"""The experiment's name: stable, different when the encoder differs, safe as a folder."""

import pytest

from contramask.typed import ConfigError
from pipelines.experiment import (
    automatic_name,
    check_matrix,
    check_name,
    config_hash,
    experiment_name,
)

PARAMS = {
    "experiment": "auto",
    "seed": 3,
    "dataset": {"image_size": 32},
    "crop_boxes": {},
    "pretrain": {"method": {"name": "cmae"}, "epochs": 2},
    "probe": {"k": 20},
}


def test_auto_names_method_hash_and_seed() -> None:
    assert experiment_name(PARAMS) == f"cmae-{config_hash(PARAMS)}-s3"
    assert len(config_hash(PARAMS)) == 4
    assert set(config_hash(PARAMS)) <= set("0123456789abcdef")


def test_the_hash_sees_what_makes_the_encoder_and_nothing_else() -> None:
    other_probe = {**PARAMS, "probe": {"k": 5}, "seed": 4, "launch": {"device": "cpu"}}
    other_epochs = {**PARAMS, "pretrain": {"method": {"name": "cmae"}, "epochs": 3}}
    assert config_hash(other_probe) == config_hash(PARAMS)
    assert config_hash(other_epochs) != config_hash(PARAMS)


def test_what_only_changes_how_a_run_is_done_does_not_rename_it() -> None:
    changed = {
        **PARAMS,
        "dataset": {"image_size": 32, "workers": 4},
        "pretrain": {**PARAMS["pretrain"], "log_every": 1},
    }
    assert config_hash(changed) == config_hash(PARAMS)


def test_the_order_of_keys_does_not_matter() -> None:
    turned = {**PARAMS, "pretrain": {"epochs": 2, "method": {"name": "cmae"}}}
    assert config_hash(turned) == config_hash(PARAMS)


def test_a_given_name_is_taken_as_it_is() -> None:
    named = {**PARAMS, "experiment": "main"}
    assert experiment_name(named) == "main"
    assert automatic_name(named) == experiment_name(PARAMS)


def test_a_name_may_stand_in_the_group() -> None:
    group = {"name": "main", "methods": ["mae"], "token_methods": [], "seeds": [0, 1]}
    assert experiment_name({**PARAMS, "experiment": group}) == "main"
    assert experiment_name({**PARAMS, "experiment": {**group, "name": "auto"}}) == experiment_name(
        PARAMS
    )
    check_matrix({"experiment": group})
    check_matrix(PARAMS)


@pytest.mark.parametrize(
    ("group", "answer"),
    [
        ({"seed": [0]}, r"experiment\.seed: there is no such key; allowed here: name, methods"),
        ({"seeds": 3}, r"experiment\.seeds: given 3; a list of whole numbers"),
        ({"seeds": [0, "1"]}, r"experiment\.seeds"),
        ({"methods": ["mae", "mae"]}, r"experiment\.methods.*each once"),
        ({"methods": ["supmim"], "token_methods": ["supmim"]}, "supmim stands under"),
    ],
)
def test_a_matrix_that_cannot_be_is_refused(group: dict, answer: str) -> None:
    with pytest.raises(ConfigError, match=answer):
        check_matrix({"experiment": group})


@pytest.mark.parametrize("params", [{}, {"pretrain": 3}, {"pretrain": {"method": "mae"}}])
def test_mistakes_elsewhere_do_not_stop_the_naming(params: dict) -> None:
    assert check_name(experiment_name(params)) is None


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "two words", "-x"])
def test_names_that_are_no_folder_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="experiment: given"):
        check_name(name)
