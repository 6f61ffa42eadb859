"""The project's own `kedro` commands."""

import copy
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.startup import ProjectMetadata
from omegaconf import OmegaConf


@click.group()
def cli() -> None:
    """Commands of this project."""


@cli.command("dvc-yaml")
@click.option("--check", is_flag=True, help="Change nothing; fail when dvc.yaml is out of date.")
@click.pass_obj
def dvc_yaml(metadata: ProjectMetadata, /, check: bool) -> None:
    """Write dvc.yaml from the pipelines, the catalog and the code's imports."""
    from pipelines.dvc_yaml import render

    target = Path(metadata.project_path) / "dvc.yaml"
    text = render(Path(metadata.project_path))
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        click.echo("dvc.yaml is up to date")
    elif check:
        raise click.ClickException("dvc.yaml is out of date: run `kedro dvc-yaml` and commit it")
    else:
        target.write_text(text, encoding="utf-8")
        click.echo("dvc.yaml written")


def split_params(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """`--params` as nested values; commas inside brackets part no parameters."""
    if isinstance(value, dict):
        return value
    items = [item for item in map(str.strip, _parts(value)) if item]
    wrong = [item for item in items if not item.partition("=")[0].strip() or "=" not in item]
    if wrong:
        context.fail(f"--params: given `{wrong[0]}`; each is written KEY=VALUE, as in seed=1")
    return OmegaConf.to_container(OmegaConf.from_dotlist(items))


def _parts(text: str) -> list[str]:
    """The text cut at the commas that stand in no brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "[{") - (sign in "]}")
        if sign == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _run_with_lists() -> click.Command:
    """Kedro's own `run`, which cannot be given a list: it cuts `image_size=[48,64]` in two."""
    command = copy.copy(kedro_run)
    command.params = [copy.copy(option) for option in kedro_run.params]
    next(option for option in command.params if option.name == "params").callback = split_params
    return command


cli.add_command(_run_with_lists())
