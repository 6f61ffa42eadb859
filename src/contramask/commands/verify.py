"""`contramask verify STORE`: whether a store is still what it was built as, to the last byte."""

import argparse
from pathlib import Path
from typing import Any

import rich


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser(
        "verify", help="read a whole store and compare it with the hash it was built with"
    )
    parser.add_argument("store", type=Path, metavar="STORE", help="such as data/03_primary/store")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verify; returns 0. Raises `ValueError` for a store that was altered or damaged."""
    from contramask.data.store import Store

    store = Store.read(options.store)
    store.verify()
    counts = ", ".join(f"{count:,} {name}" for name, count in store.manifest["splits"].items())
    said = f"{options.store}: {counts} images are as they were built (data {store.data_hash})"
    rich.get_console().print(said, soft_wrap=True, highlight=False, markup=False)
    return 0
