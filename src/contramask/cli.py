"""The `contramask` command: what needs no pipeline."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import rich
from rich.table import Table

from contramask.commands import boxes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status (0: all is well, 1: it is not, 2: bad usage)."""
    parser = argparse.ArgumentParser(prog="contramask", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    parity = commands.add_parser(
        "parity", help="compare our methods with known answers of the official implementations"
    )
    parity.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parity.set_defaults(run=_parity)
    for module in (boxes,):
        module.add(commands)
    options = parser.parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"contramask {options.command}: {error}\n")
        return 1


def _parity(options: argparse.Namespace) -> int:
    from contramask.interop.parity import TOLERANCE, compare_file  # torch: only where it is used

    failed = 0
    for path in options.files:
        table = Table(title=f"{path.name} (relative difference allowed: {TOLERANCE:g})")
        for column in ("quantity", "official", "ours", "difference", "agrees"):
            table.add_column(column, justify="left" if column == "quantity" else "right")
        for row in compare_file(path):
            failed += not row.agrees
            shown = "yes" if row.agrees else "NO"
            numbers = (f"{row.official:.6g}", f"{row.ours:.6g}", f"{row.difference:.1e}", shown)
            table.add_row(row.quantity, *numbers)
        rich.get_console().print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
