"""Progress bars with time left, on the console the log lines use, so that they never tangle."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

T = TypeVar("T")


def progress_bar(hidden: bool = False) -> Progress:
    """A rich progress display: what, bar, count, elapsed, remaining and a free note at the end."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
        console=rich.get_console(),
        disable=hidden,
    )


def byte_bar() -> Progress:
    """A rich progress display for bytes: what, bar, megabytes, speed and remaining time."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        console=rich.get_console(),
    )


def track(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterator[T]:
    """Yield `items` while a bar named `description` counts them from `done` up to `total`."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, completed=done, note="")
        for item in items:
            yield item
            bar.advance(task)
