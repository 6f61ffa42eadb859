"""Reads lists of class names: JSON, CSV or text, by value or by colour."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from contramask.data.tree import FileTree, inside

#: (value, or 65536 R + 256 G + B, and name) of each class, and whether values are colours.
Names = tuple[list[tuple[int, str]], bool]
_USUAL = re.compile(r"(.*class.*|label_colors|labels|colormap|palette|codes)\.(json|csv|txt)", re.I)
_COLOUR_FIRST = re.compile(r"(\d+)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\D.*)")
_COLOUR_LAST = re.compile(r"(\D.*?)[\s,;]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)")
_VALUE_FIRST = re.compile(r"(\d+)\s*[\s:,;=]\s*(\D.*)")
_NAME_COLUMNS = ("name", "class", "class_name", "label")
_VALUE_COLUMNS = ("id", "value", "index", "code")


def find_class_file(tree: FileTree, given: Path | None) -> str | None:
    """The name of the file `dataset.classes_file` says, or of the one usual file under root."""
    if given is not None:
        return inside(tree, given, "classes_file")
    found = [name for name in tree.names if "/" not in name and _USUAL.fullmatch(name)]
    preferred = [name for name in found if "semantic" in name.lower()] or found
    return preferred[0] if len(preferred) == 1 else None


def read_class_file(tree: FileTree, name: str) -> Names:
    """Classes by value or colour; raises `ValueError` that shows what forms are understood."""
    text = tree.text(name)
    suffix = PurePosixPath(name).suffix.lower()
    try:
        found = _from_json(json.loads(text)) if suffix == ".json" else _from_lines(text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{tree.root / name} is no list of classes ({error}); allowed are JSON"
            ' {"0": "sky", ...}, {"sky": [128, 128, 128], ...} or ["sky", ...], a CSV with columns'
            " name and id or r, g, b, and lines of `128 128 128 sky`, `0 sky` or `sky`"
        ) from error
    if not found[0]:
        raise ValueError(f"{tree.root / name} names no class")
    return found


def _from_json(content: Any) -> Names:
    if isinstance(content, dict) and isinstance(content.get("categories"), list):
        content = content["categories"]
    if isinstance(content, list):
        if all(isinstance(entry, str) for entry in content):
            return list(enumerate(content)), False
        colour = all("color" in entry for entry in content) and not all(
            "id" in entry for entry in content
        )
        key: Callable[[Any], int] = (
            (lambda e: _rgb(*e["color"])) if colour else lambda e: int(e["id"])
        )
        return [(key(entry), str(entry["name"])) for entry in content], colour
    values = list(content.values())
    if all(isinstance(value, list) for value in values):
        return [(_rgb(*value), str(name)) for name, value in content.items()], True
    if all(isinstance(value, int) for value in values):
        return [(value, str(name)) for name, value in content.items()], False
    return [(int(code), str(name)) for code, name in content.items()], False


def _from_lines(text: str) -> Names:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    header = [cell.strip().lower() for cell in lines[0].split(",")] if lines else []
    if len(header) > 1 and set(header) & set(_NAME_COLUMNS):
        return _from_table(lines, header)
    if found := _all(_COLOUR_FIRST, lines):
        return [(_rgb(*groups[:3]), groups[3].strip()) for groups in found], True
    if found := _all(_COLOUR_LAST, lines):
        return [(_rgb(*groups[1:]), groups[0].strip()) for groups in found], True
    if found := _all(_VALUE_FIRST, lines):
        return [(int(groups[0]), groups[1].strip()) for groups in found], False
    return list(enumerate(lines)), False


def _from_table(lines: list[str], header: list[str]) -> Names:
    rows = [dict(zip(header, row, strict=False)) for row in csv.reader(lines[1:])]
    name = next(column for column in _NAME_COLUMNS if column in header)
    if {"r", "g", "b"} <= set(header):
        return [(_rgb(row["r"], row["g"], row["b"]), row[name].strip()) for row in rows], True
    value = next((column for column in _VALUE_COLUMNS if column in header), None)
    if value is None:
        return [(i, row[name].strip()) for i, row in enumerate(rows)], False
    return [(int(row[value]), row[name].strip()) for row in rows], False


def _all(pattern: re.Pattern[str], lines: list[str]) -> list[tuple[str, ...]]:
    """The groups of each line when all lines have this form, else nothing."""
    matches = [pattern.fullmatch(line) for line in lines]
    found = [match.groups() for match in matches if match]
    return found if len(found) == len(lines) else []


def _rgb(red: Any, green: Any, blue: Any) -> int:
    parts = [int(red), int(green), int(blue)]
    if not all(0 <= part <= 255 for part in parts):
        raise ValueError(f"{parts} is no colour")
    return parts[0] * 65_536 + parts[1] * 256 + parts[2]
