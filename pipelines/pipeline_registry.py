"""The stages by name, in the order of the river."""

from difflib import get_close_matches
from typing import NoReturn

import click
from kedro.pipeline import Pipeline

from pipelines import (
    crop_boxes,
    dataset,
    detection,
    finetune,
    pretrain,
    probe,
    report,
    segmentation,
    tokenizer,
)

STAGES = (
    dataset,
    crop_boxes,
    tokenizer,
    pretrain,
    probe,
    finetune,
    segmentation,
    detection,
    report,
)


class Registry(dict[str, Pipeline]):
    """Pipelines by name; a name that is not there gets an answer instead of a traceback."""

    def __missing__(self, name: str) -> NoReturn:
        near = get_close_matches(name, self, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        known = ", ".join(key for key in self if key != "__default__")
        raise click.ClickException(f"there is no pipeline {name!r}.{hint} There are: {known}.")


def register_pipelines() -> Registry:
    """Each stage under its own name, and all of them as `__default__`."""
    named = {stage.__name__.rpartition(".")[2]: stage.create_pipeline() for stage in STAGES}
    return Registry(named, __default__=sum(named.values(), Pipeline([])))
