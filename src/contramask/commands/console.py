"""Where a command prints: messages apart from results, and tables uncut."""

from collections.abc import Iterator
from contextlib import contextmanager

import rich
from rich.console import Console


@contextmanager
def console_on_stderr() -> Iterator[None]:
    """While inside, progress bars and messages go to stderr."""
    console = rich.get_console()
    before, console.stderr = console.stderr, True
    try:
        yield
    finally:
        console.stderr = before


def table_console(width: int) -> Console:
    """A console on stdout that is at least so many characters wide.

    Narrow terminals wrap its lines, and files get them whole; that is better than cells cut off.
    """
    return Console(width=max(rich.get_console().width, width))
