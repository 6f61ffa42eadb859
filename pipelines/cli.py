"""The project's own `kedro` commands."""

from pathlib import Path

import click
from kedro.framework.startup import ProjectMetadata


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
