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
    """Run one sub-command; returns the exit status (0: all is well, 1: it is not, 2: usage)."""
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
    except KeyboardInterrupt:
        sys.stderr.write(f"contramask {options.command}: stopped\n")
        return 130  # what shells expect after Ctrl-C
    except (ValueError, OSError) as error:
        sys.stderr.write(f"contramask {options.command}: {_told(error)}\n")
        return 1


def _told(error: ValueError | OSError) -> str:
    """An error's text; the system's own errors name the file before what was wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
