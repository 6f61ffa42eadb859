"""Mistakes in a configuration: each is named with its key, what was given and what is allowed."""

from dataclasses import FrozenInstanceError, field
from typing import Annotated, Any, get_args

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from contramask.methods import MethodConfig
from contramask.methods.cmae import CMAEConfig
from contramask.methods.mae import MAEConfig
from contramask.models.encoder import EncoderConfig
from contramask.typed import STRICT, ConfigError, parse, to_plain

#: The union's tags as an error lists them, whatever methods there are.
METHODS = ", ".join(member.name for member in get_args(get_args(MethodConfig)[0]))


@dataclass(frozen=True, config=STRICT)
class Training:
    """A training as `pretrain` describes it: a tagged union, a nested class, plain values."""

    method: MethodConfig = field(default_factory=CMAEConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    epochs: int = Field(default=3, ge=1)
    betas: tuple[float, float] = (0.9, 0.95)
    clip_grad: float | None = Field(default=None, gt=0)


@dataclass(frozen=True, config=STRICT)
class Needy:
    """A class one field of which has no default."""

    root: str


def complaint(values: dict[str, Any], kind: Any = Training, where: str = "pretrain") -> str:
    """The text of the error that parsing `values` must raise."""
    with pytest.raises(ConfigError) as caught:
        parse(kind, values, where)
    return str(caught.value)


def test_nothing_given_means_the_defaults() -> None:
    assert parse(Training, {}, "pretrain") == Training()


def test_values_reach_nested_classes_and_the_tagged_union() -> None:
    values = {
        "method": {"name": "mae", "mask_ratio": 0.5},
        "encoder": {"depth": 2},
        "betas": [0, 1],
    }
    config = parse(Training, values, "pretrain")
    assert config.method == MAEConfig(mask_ratio=0.5)
    assert config.encoder.sizes == (128, 2, 4)
    assert config.betas == (0.0, 1.0)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Training().epochs = 5  # type: ignore[misc]


def test_a_misspelt_key_is_answered_with_the_nearest_and_all_allowed() -> None:
    assert complaint({"epocs": 5}) == (
        "the configuration cannot be used:\n"
        "  - pretrain.epocs: there is no such key; did you mean `epochs`? "
        "allowed here: method, encoder, epochs, betas, clip_grad"
    )


def test_a_key_like_none_we_know_gets_no_guess() -> None:
    text = complaint({"qqqq": 5})
    assert "did you mean" not in text
    assert "allowed here: method, encoder" in text


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"method": {"name": "cmae", "mask_ratoi": 0.5}},
            "pretrain.method.mask_ratoi: there is no such key; did you mean `mask_ratio`? "
            "allowed here: name, mask_ratio, mask_block",
        ),
        (
            {"method": {"name": "mae", "decoder": {"detph": 2}}},
            "pretrain.method.decoder.detph: there is no such key; did you mean `depth`? "
            "allowed here: embed_dim, depth, num_heads",
        ),
        (
            {"encoder": {"patchsize": 4}},
            "pretrain.encoder.patchsize: there is no such key; did you mean `patch_size`?",
        ),
    ],
    ids=["tagged union", "class in a tagged union", "nested class"],
)
def test_a_misspelt_key_is_found_at_any_depth(values: dict[str, Any], expected: str) -> None:
    assert expected in complaint(values)


def test_a_key_of_another_method_is_refused() -> None:
    text = complaint({"method": {"name": "mae", "temperature": 0.1}})
    assert "pretrain.method.temperature: there is no such key" in text
    assert "norm_pix_loss" in text
    assert "momentum" not in text  # only mae's keys are listed


def test_an_unknown_method_is_answered_with_the_nearest_and_all_allowed() -> None:
    assert complaint({"method": {"name": "mea"}}).endswith(
        "pretrain.method.name: given 'mea', which does not exist; did you mean `mae`? "
        f"allowed here: {METHODS}"
    )


def test_a_method_without_a_name_is_answered_with_all_allowed() -> None:
    assert complaint({"method": {"mask_ratio": 0.5}}).endswith(
        f"pretrain.method.name: this key is required here; allowed: {METHODS}"
    )


def test_a_tagged_union_may_stand_at_the_top() -> None:
    assert "pretrain.method.mask_ratoi" in complaint(
        {"name": "mae", "mask_ratoi": 1}, MethodConfig, "pretrain.method"
    )
    assert "pretrain.method.name: given 'x'" in complaint(
        {"name": "x"}, MethodConfig, "pretrain.method"
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"epochs": "many"}, "pretrain.epochs: given 'many', input should be a valid integer"),
        ({"epochs": 2.5}, "pretrain.epochs: given 2.5, input should be a valid integer"),
        ({"encoder": 3}, "pretrain.encoder: given 3, input should be a dictionary"),
        ({"betas": [0.9, "x"]}, "pretrain.betas.1: given 'x', input should be a valid number"),
        ({"method": {"name": "mae", "decoder": 8}}, "pretrain.method.decoder: given 8,"),
    ],
)
def test_a_wrong_type_is_named_with_what_was_given(values: dict[str, Any], expected: str) -> None:
    assert expected in complaint(values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"epochs": 0}, "pretrain.epochs: given 0, input should be greater than or equal to 1"),
        ({"clip_grad": float("nan")}, "pretrain.clip_grad: given nan, input should be a finite"),
        (
            {"method": {"name": "cmae", "mask_ratio": 1}},
            "pretrain.method.mask_ratio: given 1, input should be less than 1",
        ),
        (
            {"encoder": {"arch": "vit_bse"}},
            "pretrain.encoder.arch: given 'vit_bse', input should be 'vit_nano', 'vit_tiny'",
        ),
    ],
)
def test_a_value_out_of_range_is_answered_with_the_range(
    values: dict[str, Any], expected: str
) -> None:
    assert expected in complaint(values)


def test_a_missing_key_is_named() -> None:
    text = complaint({}, Needy, "dataset")
    assert text.endswith("dataset.root: this key is required and was not given")


def test_every_mistake_is_listed_at_once() -> None:
    text = complaint({"epochs": 0, "epocs": 1, "method": {"name": "mae", "mask_ratoi": 1}})
    lines = [line for line in text.splitlines() if line.startswith("  - ")]
    assert len(lines) == 3


def test_a_config_error_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)


def test_untagged_unions_list_the_keys_of_all_members() -> None:
    @dataclass(frozen=True, config=STRICT)
    class Left:
        left: int = 0

    @dataclass(frozen=True, config=STRICT)
    class Right:
        right: int = 0

    @dataclass(frozen=True, config=STRICT)
    class Either:
        side: Annotated[Left | Right, "a note"] = field(default_factory=Left)

    text = complaint({"side": {"lift": 1}}, Either, "choice")
    assert "did you mean `left`? allowed here: left" in text


def test_to_plain_gives_what_parse_takes_back() -> None:
    config = parse(Training, {"method": {"name": "mae"}, "clip_grad": 1}, "pretrain")
    plain = to_plain(config)
    assert plain["method"]["name"] == "mae"
    assert plain["betas"] == [0.9, 0.95]
    assert parse(Training, plain, "pretrain") == config


def test_defaults_are_checked_too() -> None:
    @dataclass(frozen=True, config=STRICT)
    class Wrong:
        share: float = Field(default=-1.0, gt=0)

    assert "wrong.share: given -1.0" in complaint({}, Wrong, "wrong")
