"""Keeps a command's standard output free for its result."""

from collections.abc import Iterator
from contextlib import contextmanager

import rich


@contextmanager
def console_on_stderr() -> Iterator[None]:
    """While inside, progress bars and messages go to stderr."""
    console = rich.get_console()
    before, console.stderr = console.stderr, True
    try:
        yield
    finally:
        console.stderr = before
