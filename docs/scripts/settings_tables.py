"""Tables of a configuration class: every key, what it may be, its default, what it means.

Types, bounds and defaults come from the class itself, explanations from the comments of its source
(`#:` lines above a field, `#` behind it).
"""

import importlib
import inspect
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "a multiple of"}
#: Keys whose classes have pages of their own.
ELSEWHERE = ("pretrain.method",)
_NAMES = {int: "whole number", float: "number", bool: "true or false", str: "text"}


def settings_tables(module: str, name: str, key: str) -> str:
    """Markdown tables of a class and, after it, of the classes it contains, by full key."""
    kind = getattr(importlib.import_module(module), name)
    parts, inner = [_table(kind)], _nested(kind, key)
    for path, member in inner:
        title = f"`{path}`" + (f" ({_tag(member)})" if _tag(member) else "")
        about = (inspect.getdoc(member) or "").split("\n\n")[0].replace("\n", " ")
        parts += [f'??? note "{title}: {_plain(about)}"', _indented(_table(member))]
    return "\n\n".join(parts)


def _nested(kind: type, path: str) -> list[tuple[str, type]]:
    """Configuration classes inside a class, depth first, each with its key."""
    found: list[tuple[str, type]] = []
    for field in fields(kind):  # type: ignore[arg-type]
        here = f"{path}.{field.name}" if path else field.name
        if here in ELSEWHERE:
            continue
        for member in _classes(_hints(kind)[field.name]):
            found += [(here, member), *_nested(member, here)]
    return found


def _classes(hint: Any) -> list[type]:
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    if get_origin(hint) in (Annotated, Union, UnionType):
        return [kind for part in get_args(hint) for kind in _classes(part)]
    return []


def _table(kind: type) -> str:
    comments, hints = _comments(kind), _hints(kind)
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for field in fields(kind):  # type: ignore[arg-type]
        cells = (
            f"`{field.name}`",
            _words(hints[field.name], _bounds(field)),
            _default(field),
            comments.get(field.name, ""),
        )
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(rows)


def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _words(hint: Any, bounds: str = "") -> str:
    """A type in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        inner = [_limits(m.metadata) for m in args[1:] if isinstance(m, FieldInfo)]
        return _words(args[0], bounds or " ".join(filter(None, inner)))
    if origin in (Union, UnionType):
        return " or ".join(_words(part, bounds if part is not NoneType else "") for part in args)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"list of: {_words(args[0])}"
        return "[" + ", ".join(_words(part) for part in args) + "]"
    if hint is NoneType:
        return "`null`"
    if is_dataclass(hint):
        return f"the group `{_tag(hint)}`" if _tag(hint) else "a group of keys"
    return f"{_NAMES.get(hint, getattr(hint, '__name__', str(hint)).lower())} {bounds}".strip()


def _bounds(field: "Field[Any]") -> str:
    given = field.default
    return _limits(given.metadata) if isinstance(given, FieldInfo) else ""


def _limits(metadata: list[Any]) -> str:
    found = []
    for item in metadata:
        for name, sign in _SIGNS.items():
            value = getattr(item, name, None)
            if value is not None:
                found.append(f"{sign} {value}")
    return ", ".join(found)


def _default(field: "Field[Any]") -> str:
    given = field.default
    if isinstance(given, FieldInfo):
        given = given.get_default(call_default_factory=True, validated_data={})
    if field.default_factory is not MISSING or is_dataclass(given):
        return "see below"
    if given is MISSING:
        return ""
    shown = {True: "true", False: "false"}.get(given) if isinstance(given, bool) else None
    if given is None:
        shown = "null"
    if isinstance(given, tuple):
        shown = str(list(given))
    return f"`{given if shown is None else shown}`" if given != "" else '`""`'


def _tag(kind: Any) -> str:
    hint = get_type_hints(kind).get("name")
    return str(get_args(hint)[0]) if get_origin(hint) is Literal else ""


def _comments(kind: type) -> dict[str, str]:
    """Field -> what its source says about it, base classes first."""
    found: dict[str, str] = {}
    for base in reversed([b for b in kind.__mro__ if is_dataclass(b)]):
        above: list[str] = []
        last = ""
        for line in inspect.getsource(base).splitlines():
            text = line.strip()
            name = re.match(r"    (\w+): ", line)
            if text.startswith("#"):
                above.append(text.lstrip("#: "))
            elif name:
                last = name[1]
                behind = text.partition("  # ")[2]
                if above or behind:
                    found[last] = _plain(" ".join([*above, behind]).strip())
                above = []
            else:
                behind = text.partition(")  # ")[2]
                if behind and last and last not in found:
                    found[last] = behind
                above = []
    return found


def _cell(text: str) -> str:
    """Nothing in a cell ends it or looks like HTML; code stays as it is."""
    parts = text.replace("|", "\\|").split("`")
    parts[::2] = [part.replace("<", "&lt;").replace(">", "&gt;") for part in parts[::2]]
    return "`".join(parts)


def _plain(text: str) -> str:
    return text.replace('"', "'")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
