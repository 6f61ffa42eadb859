"""README and docs: every command is run at small size or checked word by word; Python is executed.

A command of a kind that stands in no table here fails its test.
"""

import argparse
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import pipelines, settings

from contramask import cli
from contramask.config import parse_parameters
from contramask.models.bundle import EncoderBundle
from contramask.typed import ConfigError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: What a reader fills in -> what the project of these tests has.
PLACEHOLDERS = {"<experiment>": "demo", "...": "demo", "…": "demo"}
#: `contramask` commands that are really run; the rest is read by argparse, for the reason given.
RUN = ("inspect", "embed", "boxes", "evaluate", "import-weights", "verify", "export --to timm")
PARSED = {
    "bench": "takes minutes and other packages",
    "fetch": "needs a network",
    "join": "needs other machines",
    "parity": "needs known answers",
    "pretrain": "a training of its own",
    "export --to onnx": "needs an extra",
    "export --to transformers": "needs an extra",
}


@dataclass(frozen=True)
class Command:
    """One command of one page, and what the page says it prints."""

    page: Path
    text: str
    output: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text[:60]}"


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks of a page in one language, without their indentation."""
    pattern = rf"^( *)```{language}\n(.*?)^\1```$"
    for found in re.finditer(pattern, page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        yield re.sub(rf"^{found[1]}", "", found[2], flags=re.MULTILINE)


def commands() -> Iterator[Command]:
    for page in PAGES:
        for block in blocks(page, "console"):
            lines = block.replace("\\\n", " ").strip().splitlines()
            shown = [line for line in lines if line.startswith("$ ")] or lines
            output = "" if shown is lines else "\n".join(lines[1:])
            for line in shown:
                for text in line.removeprefix("$ ").split(" && "):
                    yield Command(page, text, output)


@pytest.mark.parametrize("command", list(commands()), ids=str)
def test_every_command_works(
    command: Command, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = command.text.partition("  # ")[0]
    for placeholder, name in PLACEHOLDERS.items():
        text = text.replace(placeholder, name)
    text = re.sub(r"<[^<>]*>", "given", text)
    words = _without_runner(shlex.split(text))
    if not words:
        return
    if words[0] == "contramask":
        _contramask(words[1:], monkeypatch)
    elif words[:2] == ["kedro", "run"] and "Error:" in command.output:
        with pytest.raises(ConfigError) as refused:
            _kedro_run(words[2:])
        assert f"Error: {refused.value}".split() == command.output.split()
    else:
        assert words[0] in PROGRAMS, f"no test knows the command {words[0]}"
        PROGRAMS[words[0]](words[1:])


def _without_runner(words: list[str]) -> list[str]:
    """The command itself, without variables and `uv run` before it."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        assert words[0].startswith("MLFLOW_TRACKING_URI=")
        words = words[1:]
    if words == ["pip", "install", "uv"]:
        return []
    if words[0] != "uv":
        return words
    assert words[1] in ("run", "sync")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    rest = words[2:]
    while rest[:1] == ["--extra"]:
        assert rest[1] in extras["optional-dependencies"]
        rest = rest[2:]
    return rest


class _Parsed(Exception):
    """Carries what argparse made of a command that is not run."""


def _contramask(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    to = words.index("--to") if "--to" in words else len(words)
    kind = " ".join([words[0], *words[to : to + 2]])
    if kind in RUN or words[0] in RUN:
        if words[0] == "import-weights":
            shutil.rmtree(words[2], ignore_errors=True)
        assert cli.main(words) == 0
        return
    assert kind in PARSED, f"neither run nor known not to be: {kind}"
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
        raise _Parsed(parse(parser, arguments))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    with pytest.raises(_Parsed):
        cli.main(words)


def _kedro(words: list[str]) -> None:
    if words[0] == "run":
        _kedro_run(words[1:])
    else:
        from pipelines.cli import cli as own

        own.commands[words[0]].make_context(words[0], words[1:])


def _kedro_run(words: list[str]) -> None:
    """Read options, stages, environment and every parameter as `kedro run` would."""
    from pipelines.experiment import check_name, experiment_name
    from pipelines.hooks import OWN_PARAMETERS
    from pipelines.loader import ExperimentConfigLoader

    options = kedro_run.make_context("run", words).params
    stages = [options.get("pipeline"), *(options.get("pipelines") or ())]
    assert {stage for stage in stages if stage} <= set(pipelines)
    env = options["env"] or "local"
    assert (ROOT / "conf" / env).is_dir() or env == "mine"
    given = options["params"] or {}
    loader = ExperimentConfigLoader(
        str(ROOT / "conf"), env=env, runtime_params=given, **settings.CONFIG_LOADER_ARGS
    )
    parameters = loader["parameters"]
    parse_parameters({k: v for k, v in parameters.items() if k not in OWN_PARAMETERS})
    check_name(experiment_name(parameters))


def _click(group: Callable[[], Any]) -> Callable[[list[str]], None]:
    def check(words: list[str]) -> None:
        commands_of = group()
        command = commands_of.get_command(click.Context(commands_of), words[0])
        assert command, f"there is no command {words[0]}"
        command.make_context(words[0], words[1:])

    return check


def _mlflow() -> Any:
    from mlflow.cli import cli as commands_of_mlflow

    return commands_of_mlflow


def _mkdocs() -> Any:
    return pytest.importorskip("mkdocs.__main__").cli


def _dvc(words: list[str]) -> None:
    from dvc.cli import parse_args

    assert parse_args(words).func


def _mkdir(words: list[str]) -> None:
    assert words[0] == "-p"
    Path(words[1]).mkdir(parents=True, exist_ok=True)


def _cp(words: list[str]) -> None:
    assert words[0] == "-r"
    source, target = map(Path, words[1:])
    assert target.is_dir()
    shutil.copytree(source, target / source.name, dirs_exist_ok=True)


def _pytest(words: list[str]) -> None:
    assert all((ROOT / word).exists() for word in words)


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "kedro": _kedro,
    "mlflow": _click(_mlflow),
    "mkdocs": _click(_mkdocs),
    "dvc": _dvc,
    "mkdir": _mkdir,
    "cp": _cp,
    "pytest": _pytest,
}


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(blocks(p, "python"))], ids=lambda p: p.stem
)
def test_every_line_of_python_runs(page: Path, there: Path) -> None:
    assert cli.main(["embed", "data/06_models/demo", "../my_images", "features.parquet"]) == 0
    scope: dict[str, Any] = {"__name__": page.stem}
    if page.stem == "experiments":  # loads a registered model: here, what would be registered
        from pipelines.registration import describe

        describe(EncoderBundle.read(Path("data/06_models/demo")), there / "registered")
        scope["images"] = np.zeros((2, 32, 32, 3), np.uint8)
    for block in blocks(page, "python"):
        code = block.replace("<experiment>", "demo").replace(
            "models:/contramask-mae/1", "registered"
        )
        exec(compile(code, str(page), "exec"), scope)
    if page.stem == "new-method":
        assert scope["losses"][-1] < scope["losses"][0]
