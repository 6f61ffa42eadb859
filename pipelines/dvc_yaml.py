"""Writes `dvc.yaml` from the pipelines, the catalog and the code's imports.

DVC then knows what each stage reads, by which code and with which parameters, without a list kept
by hand; `tests/test_project.py` compares the committed file with what this module makes.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from kedro.framework.project import pipelines, settings
from kedro.io.catalog_config_resolver import CatalogConfigResolver
from kedro.pipeline import Pipeline

from pipelines.pipeline_registry import STAGES

HEADER = (
    "# Made by `kedro dvc-yaml` from pipelines/, conf/base and the code's imports; do not edit.\n"
)
#: One name for whatever `conf/base` describes: DVC, not the folder's name, tells versions apart.
EXPERIMENT = "main"
#: Parameters DVC must not see: they are about the machine.
UNTRACKED = ("launch",)
#: What else decides the value of a parameter, or decides it alone (the command fixes the name).
STANDS_FOR = {"experiment": ["seed"], "pretrain": ["pretrain", "methods", "recipes"]}
LIBRARY = "contramask"
#: Files that a module reads from its own folder.
DATA_SUFFIXES = (".html", ".css", ".json")


def render(root: Path) -> str:
    """The text of `dvc.yaml` for the project in `root`."""
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=str(root / settings.CONF_SOURCE),
        runtime_params={"experiment": EXPERIMENT},
        **{**settings.CONFIG_LOADER_ARGS, "default_run_env": "base"},
    )
    catalog = CatalogConfigResolver(loader["catalog"])
    raw = (loader["parameters"].get("dataset") or {}).get("root")
    stages = {}
    for package in STAGES:
        name = package.__name__.rpartition(".")[2]
        stages[name] = _stage(name, pipelines[name], catalog, root)
    if raw and not Path(raw).is_absolute():  # the user's images, when they lie in the project
        stages["dataset"]["deps"] = sorted([*stages["dataset"]["deps"], raw])
    return HEADER + yaml.safe_dump({"stages": stages}, sort_keys=False, width=120)


def _stage(
    name: str, pipeline: Pipeline, catalog: CatalogConfigResolver, root: Path
) -> dict[str, Any]:
    inputs = sorted(pipeline.inputs())
    read = [key.removeprefix("params:") for key in inputs if key.startswith("params:")]
    files = [_path(key, catalog) for key in inputs if not key.startswith("params:")]
    stage: dict[str, Any] = {
        "cmd": f"kedro run --pipelines {name} --params experiment={EXPERIMENT}",
        "deps": sorted({*filter(None, files), *code_files(root, name)}),
    }
    owners = _parameter_files(root)
    tracked = [k for key in read if key not in UNTRACKED for k in STANDS_FOR.get(key, [key])]
    files_of: dict[str, list[str]] = {}
    for key in tracked:
        files_of.setdefault(owners[key.split(".")[0]], []).append(key)
    if files_of:
        stage["params"] = [{file: keys} for file, keys in files_of.items()]
    outs = [_path(key, catalog) for key in sorted(pipeline.all_outputs())]
    stage["outs"] = [path for path in outs if path]
    return stage


def _path(name: str, catalog: CatalogConfigResolver) -> str | None:
    """Where a dataset lies; None for the work folders that DVC leaves alone."""
    entry = catalog.resolve_pattern(name)
    if "filepath" not in entry:
        raise ValueError(f"dataset {name!r} has no file in conf/base/catalog.yml")
    how = (entry.get("metadata") or {}).get("dvc") or {}
    return None if how.get("track") is False else str(entry["filepath"])


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
