"""Progress bars pass everything through and count it."""

import io

import pytest
import rich
from rich.console import Console

from contramask.progress import track


def test_items_pass_through_in_order_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    assert list(track("abc", "reading", total=3)) == ["a", "b", "c"]
    assert "reading" in screen.getvalue()
    assert "3/3" in screen.getvalue()
