"""README and docs: every command is run at small size or checked word by word; Python is executed.

One project in a temporary folder serves all of them: a tiny chain run once, with the demo's network.
A command of a kind that stands in no table here fails its test.
"""

import argparse
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import pipelines, settings
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from PIL import Image

from contramask import cli
from contramask.config import SECTIONS, parse_parameters
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.typed import ConfigError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: What a reader fills in -> what the project of these tests has.
PLACEHOLDERS = {"<experiment>": "demo", "...": "demo", "…": "demo"}
#: `contramask` commands that are really run; the rest is read by argparse, for the reason given.
RUN = ("inspect", "embed", "boxes", "evaluate", "import-weights", "export --to timm")
PARSED = {
    "bench": "takes minutes and other packages",
    "parity": "needs known answers",
    "export --to onnx": "needs an extra",
    "export --to transformers": "needs an extra",
}
#: The chain at its smallest, but with the demo's encoder, whose sizes the pages name.
TINY: dict[str, Any] = {
    "experiment": "demo",
    "tracking": False,
    "dataset": {"scenes": {"num_train": 64, "num_val": 32}},
    "pretrain": {
        "encoder": {"embed_dim": None, "depth": None, "num_heads": None},
        **{"epochs": 1, "warmup_epochs": 0, "batch_size": 32},
    },
    "probe": {"attentive": None, "shots": [1], "label_shares": [], "weight_decays": [0.01]},
    "finetune": {"train_limit": 32, "batch_size": 16},
    "segmentation": {"train_limit": 8, "val_limit": 4, "linear": {"batch_size": 8}},
    "detection": {"train_limit": 8, "val_limit": 4, "tune": {"batch_size": 8}},
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


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a project's after a first run, and everything the pages assume beside it."""
    here = tmp_path_factory.mktemp("documentation") / "project"
    bootstrap_project(ROOT)
    given = {**TINY, "data": str(here / "data")}
    with KedroSession.create(project_path=ROOT, env="smoke", runtime_params=given) as session:
        session.run()
    _images(here.parent / "my_images")
    _metrics(here)
    shape = EncoderConfig(patch_size=8, embed_dim=64, depth=1, num_heads=1)
    state = build_encoder(shape, (32, 32), 3).state_dict()
    torch.save({"model": state}, here / "mae_pretrain_vit_base.pth")
    return here


def _images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(path)


def _metrics(folder: Path) -> None:
    """The files `contramask evaluate` reads."""
    (folder / "predicted").mkdir()
    (folder / "truth").mkdir()
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8) % 11
    for name in ("predicted", "truth"):
        Image.fromarray(mask).save(folder / name / "0.png")
    shutil.make_archive(str(folder / "masks"), "zip", folder / "truth")
    square = [[1, 1, 5, 1, 5, 5, 1, 5]]
    one = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "segmentation": square}
    truth = {
        "images": [{"id": 1, "height": 8, "width": 8}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{**one, "id": 1, "area": 16, "iscrowd": 0}],
    }
    (folder / "instances.json").write_text(json.dumps(truth), encoding="utf-8")
    found = json.dumps([{**one, "score": 0.9}])
    (folder / "results.json").write_text(found, encoding="utf-8")
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    for name in ("train", "test"):
        np.savez(folder / f"{name}.npz", features=features, labels=np.arange(40) % 2)


@pytest.fixture
def there(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


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
    kind = " ".join([words[0], *(["--to", words[words.index("--to") + 1]] * ("--to" in words))])
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
    from pipelines.experiment import check_name
    from pipelines.hooks import OWN_PARAMETERS
    from pipelines.loader import ExperimentConfigLoader

    options = kedro_run.make_context("run", words).params
    bootstrap_project(ROOT)
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
    check_name(parameters["experiment"])


def _click(group: Callable[[], Any]) -> Callable[[list[str]], None]:
    def check(words: list[str]) -> None:
        command: click.Command = group().commands[words[0]]
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
    for block in blocks(page, "python"):
        code = block.replace("<experiment>", "demo")
        exec(compile(code, str(page), "exec"), scope)
    if page.stem == "new-method":
        assert scope["losses"][-1] < scope["losses"][0]


def test_the_run_the_pages_describe_left_what_they_name(there: Path) -> None:
    assert "demo" in (there / "data/08_reporting/report.html").read_text("utf-8")
    for task in ("pretrain", "probe", "finetune", "segmentation", "detection"):
        assert (there / "data/07_model_output/demo" / task / "results.parquet").is_file()


def test_the_reference_lists_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "scripts"))
    from settings_tables import settings_tables

    page = (ROOT / "docs/reference/configuration.md").read_text("utf-8")
    for section, kind in SECTIONS.items():
        assert f"<!-- settings: {kind.__module__}:{kind.__name__} {section} -->" in page
        text = settings_tables(kind.__module__, kind.__name__, section)
        for key in kind.__dataclass_fields__:
            assert f"| `{key}` |" in text
    assert sys.modules.pop("settings_tables")


def test_links_and_pictures_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            if not target.startswith(("http", "#")):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page}: {target}"
