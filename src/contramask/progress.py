"""Progress bars with time left, on the console the log lines use, so that they never tangle."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import rich
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
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


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield `items` while a bar named `description` counts them up to `total`."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=total, note="")
        for item in items:
            yield item
            bar.advance(task)
