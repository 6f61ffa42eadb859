"""Writes `dvc.yaml` from the pipelines, the catalog and the code's imports.

DVC then knows what each stage reads, by which code and with which parameters, without a list kept
by hand; `tests/test_project.py` compares the committed file with what this module makes.
"""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.project import pipelines, settings
from kedro.io.catalog_config_resolver import CatalogConfigResolver

from pipelines.pipeline_registry import STAGES

HEADER = """\
# Made by `kedro dvc-yaml` from pipelines/, conf/base and the code's imports; do not edit.
# Each method of experiment.methods (conf/base/parameters.yml) is run with each of its seeds, as
# pretrain@mae-0, probe@mae-0, ...; those of experiment.token_methods make a tokenizer first.
"""
#: Where the lists of methods and seeds stand; DVC reads them anew at each `dvc repro`.
MATRIX = "conf/base/parameters.yml:experiment"
#: Stages that all experiments share: they run once.
SHARED = ("dataset", "crop_boxes", "report")
#: The list of methods a group of stages is for -> what the names of these stages end in. DVC's
#: templates cannot let one dependency hang on the method, so methods that wait for a tokenizer have
#: stages of their own.
BRANCHES = {"methods": "", "token_methods": "_tokens"}
#: The stage, and the dataset it makes, that only the methods of `token_methods` have.
TOKENIZER = "tokenizer"
#: Stands for the experiment's name in paths until DVC's template takes its place.
CELL = "CELL"
EXPERIMENT = "${item.method}-s${item.seed}"
#: What a command sets: DVC sees a changed command as a changed stage.
SET = f"experiment.name={EXPERIMENT},pretrain.method.name=${{item.method}},seed=${{item.seed}}"
#: Parameters DVC must not see: they are about the machine.
UNTRACKED = ("launch",)
#: What else decides the value of a parameter, or decides it alone (`SET` has the experiment's).
STANDS_FOR: dict[str, list[str]] = {
    "experiment": [],
    "pretrain": ["pretrain", "methods.${item.method}", "recipes.${item.method}"],
    **{task: [task, f"presets.{task}"] for task in ("finetune", "segmentation", "detection")},
}
#: Options of metrics and plots that the catalog's `metadata.dvc` may set.
OPTIONS = ("cache", "title", "template", "x", "y")
LIBRARY = "contramask"
#: Files that a module reads from its own folder.
DATA_SUFFIXES = (".html", ".css", ".json")


def render(root: Path) -> str:
    """The text of `dvc.yaml` for the project in `root`."""
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=str(root / settings.CONF_SOURCE),
        runtime_params={"experiment": CELL},
        **{**settings.CONFIG_LOADER_ARGS, "default_run_env": "base"},
    )
    catalog = CatalogConfigResolver(loader["catalog"])
    raw = (loader["parameters"].get("dataset") or {}).get("root")
    stages = {
        name: _stage(pipeline, methods, catalog, root) for name, pipeline, methods in _units()
    }
    if raw and not Path(raw).is_absolute():  # the user's images, when they lie in the project
        stages["dataset"]["deps"] = sorted([*stages["dataset"]["deps"], raw])
    tree = {"vars": [MATRIX], "stages": stages}
    return HEADER + yaml.safe_dump(tree, sort_keys=False, width=120)


def _units() -> Iterator[tuple[str, str, str | None]]:
    """(stage, pipeline, list of methods or None for a shared one), in the order of the river."""
    names = [package.__name__.rpartition(".")[2] for package in STAGES]
    own = [name for name in names if name not in SHARED]
    for name in names[: names.index(own[0])]:
        yield name, name, None
    for methods, suffix in BRANCHES.items():
        for name in own:
            if name != TOKENIZER:
                yield name + suffix, name, methods
            elif methods == "token_methods":
                yield name, name, methods
    for name in names[names.index(own[-1]) + 1 :]:
        yield name, name, None


def _stage(
    name: str, methods: str | None, catalog: CatalogConfigResolver, root: Path
) -> dict[str, Any]:
    pipeline = pipelines[name]
    given = SET if methods else "experiment.name=shared"
    stage: dict[str, Any] = {"cmd": f"kedro run --pipelines {name} --params {given}"}
    if methods:
        lists = {"method": f"${{experiment.{methods}}}", "seed": "${experiment.seeds}"}
        stage = {"matrix": lists, **stage}
    unused = () if methods == "token_methods" else (TOKENIZER,)
    inputs = sorted(key for key in pipeline.inputs() if key not in unused)
    files = [_path(key, catalog, methods) for key in inputs if not key.startswith("params:")]
    stage["deps"] = sorted({*filter(None, files), *code_files(root, name)})
    params = _parameters(inputs, root)
    if params:
        stage["params"] = params
    for key in sorted(pipeline.all_outputs()):
        path = _path(key, catalog, methods)
        how = (catalog.resolve_pattern(key).get("metadata") or {}).get("dvc") or {}
        options = {option: how[option] for option in OPTIONS if option in how}
        if path:
            entry = {path: options} if options else path
            stage.setdefault(how.get("as", "outs"), []).append(entry)
    return stage


def _parameters(inputs: Sequence[str], root: Path) -> list[dict[str, list[str]]]:
    """What the stage's `params:` inputs are made of, by the file that holds it."""
    owners = _parameter_files(root)
    read = [key.removeprefix("params:") for key in inputs if key.startswith("params:")]
    files_of: dict[str, list[str]] = {}
    for name in [name for name in read if name not in UNTRACKED]:
        for key in STANDS_FOR.get(name, [name]):
            files_of.setdefault(owners[key.split(".")[0]], []).append(key)
    return [{file: keys} for file, keys in files_of.items()]


def _path(name: str, catalog: CatalogConfigResolver, methods: str | None) -> str | None:
    """Where a dataset lies; None for the work folders that DVC leaves alone.

    A shared stage that reads what each experiment makes reads the folder that holds them all.
    """
    entry = catalog.resolve_pattern(name)
    if "filepath" not in entry:
        raise ValueError(f"dataset {name!r} has no file in conf/base/catalog.yml")
    if ((entry.get("metadata") or {}).get("dvc") or {}).get("track") is False:
        return None
    path = str(entry["filepath"])
    return path.replace(CELL, EXPERIMENT) if methods else path.partition(f"/{CELL}")[0]


def _parameter_files(root: Path) -> dict[str, str]:
    """Which file of conf/base defines which top-level parameter."""
    return {
        key: path.relative_to(root).as_posix()
        for path in sorted((root / "conf" / "base").glob("parameters*.yml"))
        for key in yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    }


def code_files(root: Path, stage: str) -> list[str]:
    """The stage's own modules and every file of the library they import, directly or not."""
    todo = sorted((root / "pipelines" / stage).glob("*.py"))
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        seen.update(p for p in path.parent.iterdir() if p.suffix in DATA_SUFFIXES)
        for module in _modules_named(ast.parse(path.read_text(encoding="utf-8"))):
            todo.extend(_files_of(root, module))
    return sorted(path.relative_to(root).as_posix() for path in seen)


def _modules_named(tree: ast.Module) -> Iterator[str]:
    """Dotted names a module imports, also inside functions and by a `module:Class` string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition(":")[0]


def _files_of(root: Path, module: str) -> Iterator[Path]:
    """The module's file and the `__init__.py` of the packages above it that do something."""
    package, *rest = module.split(".")
    if package != LIBRARY:
        return
    folder = root / "src" / LIBRARY
    for part in [*rest, None]:
        init = folder / "__init__.py"
        if init.is_file() and _runs_code(init):
            yield init
        if part is None:
            return
        file = folder / f"{part}.py"
        if file.is_file():
            yield file
            return
        folder = folder / part


def _runs_code(init: Path) -> bool:
    """Whether a package's file does more than hold a docstring and constants."""
    body = ast.parse(init.read_text(encoding="utf-8")).body
    return any(not isinstance(node, ast.Expr | ast.Assign | ast.AnnAssign) for node in body)
