"""The `contramask` command: what needs no pipeline."""

import argparse
import sys
from collections.abc import Sequence

from contramask.commands import (
    bench,
    boxes,
    embed,
    evaluate,
    export,
    fetch,
    import_weights,
    inspect,
    parity,
    pretrain,
    verify,
)
from contramask.startup import tune_process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; returns the exit status (0: all is well, 1: it is not, 2: bad usage)."""
    parser = argparse.ArgumentParser(prog="contramask", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (
        inspect,
        boxes,
        parity,
        evaluate,
        embed,
        export,
        import_weights,
        bench,
        fetch,
        verify,
        pretrain,
    ):
        module.add(commands)
    options = parser.parse_args(arguments)
    tune_process()  # before a command imports torch
    try:
        return int(options.run(options))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"contramask {options.command}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
