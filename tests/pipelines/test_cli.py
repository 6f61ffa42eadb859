"""What the project changes about Kedro's commands."""

from pathlib import Path

import click
import pytest
from kedro.framework.cli.cli import KedroCLI

from pipelines.cli import cli


def given(text: str) -> object:
    command = cli.commands["run"]
    option = next(option for option in command.params if option.name == "params")
    return option.process_value(click.Context(command), text)


def test_values_may_be_lists() -> None:
    text = "dataset.image_size=[48,64], dataset.value_range=[0,4095],seed=1,views.t=[{a: 1, b: 2}]"
    assert given(text) == {
        "dataset": {"image_size": [48, 64], "value_range": [0, 4095]},
        "seed": 1,
        "views": {"t": [{"a": 1, "b": 2}]},
    }
    assert given("") == {}
    assert given("a.b=x=y") == {"a": {"b": "x=y"}}


@pytest.mark.parametrize("text", ["seed", "=1", "seed=1,2"])
def test_what_is_no_parameter_is_named(text: str) -> None:
    with pytest.raises(click.UsageError, match="each is written KEY=VALUE"):
        given(text)


def test_kedro_takes_this_run() -> None:
    found = KedroCLI(Path(__file__).parents[2])
    assert found.get_command(click.Context(found), "run") is cli.commands["run"]
