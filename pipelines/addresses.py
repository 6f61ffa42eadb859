"""Where the logbook is: its store, its files, the page of a run."""

import re
from pathlib import Path


def store_root(project: Path) -> Path:
    """Where the logbook lives: the project, also from the copy that `dvc exp run --temp` makes."""
    parts = project.resolve().parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:i])
    return project.resolve()


def absolute_uri(uri: str, root: Path) -> str:
    """A tracking or artifact address whose relative path means `root`, wherever one stands."""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{root / uri.removeprefix('sqlite:///')}"
    return uri if "://" in uri else (root / uri).as_uri()


def run_link(uri: str, experiment: str, run_id: str) -> dict[str, str]:
    """A run's id, and its page if a server at `uri` shows it."""
    if not uri.startswith("http"):
        return {"run_id": run_id}
    shown = re.sub(r"//[^/@]*@", "//", uri).rstrip("/")  # no password in a report
    return {"run_id": run_id, "url": f"{shown}/#/experiments/{experiment}/runs/{run_id}"}
