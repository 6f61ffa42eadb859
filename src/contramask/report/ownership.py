"""Whose the arrays and tables of a stage are: `<method>/<array>` and `<method>-<table>`.

A method's own name may hold a `-`, as those of imported encoders do.
"""

import re
from collections.abc import Iterable

from contramask.results import StageOutput

#: What a share of the labels, or another length of training, adds to a method's name.
_PART = re.compile(r"-(?:[0-9.e+-]+-percent|compute-matched)$")
#: What follows a method's name in a table's: a part as above or a segmentation head, and the table.
_TABLE = re.compile(
    r"(?:-(?:linear|upernet|dpt))?-(?:near|curve|per_class|calibration|worst|boxes|mistakes)$"
)


def owner_of(name: str, methods: Iterable[str]) -> str | None:
    """The method that an array or table belongs to: the longest name that it starts with."""
    own = [method for method in methods if name.startswith((f"{method}/", f"{method}-"))]
    return max(own, key=len, default=None)


def methods_in(output: StageOutput) -> list[str]:
    """The methods that have arrays or tables in a stage.

    They are the methods of its rows; what those do not explain is told from its own name.
    """
    known = set(output.rows["method"].astype(str)) if "method" in output.rows else set()
    found: set[str] = set()
    for name in [*output.arrays, *output.tables]:
        owner = owner_of(name, known | found)
        found.add(_stem(name) if owner is None else owner)
    return sorted(found)


def _stem(name: str) -> str:
    """The method in a name that no row explains."""
    method, slash, _ = name.partition("/")
    if not slash:
        table = _TABLE.search(name)
        method = name[: table.start()] if table else name.rpartition("-")[0] or name
    return _PART.sub("", method)
