"""`contramask fetch SET`: download a public set, for machines whose jobs have no network."""

import argparse
from pathlib import Path
from typing import Any

import rich
from rich.table import Table


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser("fetch", help="download a public set, or list those there are")
    parser.add_argument("name", nargs="?", metavar="SET", help="without it: list the sets")
    parser.add_argument(
        "--to",
        type=Path,
        default=Path("data/01_raw"),
        metavar="FOLDER",
        help="the set becomes a folder of its name in here (default data/01_raw)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Download or list; returns 0. Raises `ValueError` for sets that are not known."""
    from contramask.data.public_sets import PUBLIC_SETS, announcement, fetch_set

    if options.name is None:
        table = Table("set", "what it is", "MB", "terms", header_style="dim")
        for name, known in PUBLIC_SETS.items():
            table.add_row(name, known.title, f"{known.megabytes:,}", known.terms)
        rich.get_console().print(table)
        return 0
    if options.name not in PUBLIC_SETS:
        raise ValueError(f"{options.name!r} is no known set; known: {', '.join(PUBLIC_SETS)}")
    console = rich.get_console()
    console.print(announcement(options.name), highlight=False, soft_wrap=True, markup=False)
    folder = fetch_set(options.name, options.to)
    use = f"kedro run --pipeline dataset --params dataset.source={options.name},dataset.root="
    console.print(f"{use}{folder}", soft_wrap=True, highlight=False, markup=False)
    return 0
