"""`contramask parity`: do our methods compute what the official implementations compute?"""

import argparse
from pathlib import Path
from typing import Any

import rich
from rich.table import Table


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser(
        "parity", help="compare our methods with known answers of the official implementations"
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.set_defaults(run=_parity)


def _parity(options: argparse.Namespace) -> int:
    from contramask.interop.parity import TOLERANCE, compare_file  # torch: only where it is used

    failed = 0
    for path in options.files:
        table = Table(title=f"{path.name} (relative difference allowed: {TOLERANCE:g})")
        table.add_column("quantity", overflow="fold")  # a name that is cut off names nothing
        for column in ("official", "ours", "difference", "agrees"):
            table.add_column(column, justify="right", no_wrap=True)
        for row in compare_file(path):
            failed += not row.agrees
            shown = "yes" if row.agrees else "NO"
            numbers = (f"{row.official:.6g}", f"{row.ours:.6g}", f"{row.difference:.1e}", shown)
            table.add_row(row.quantity, *numbers)
        rich.get_console().print(table)
    return 1 if failed else 0
