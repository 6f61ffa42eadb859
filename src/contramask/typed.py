"""Typed configuration: frozen classes that refuse what they do not know, with errors that help."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

#: Every config class is `@dataclass(frozen=True, config=STRICT)` (pydantic's dataclass).
STRICT = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

#: Yes, no (YAML makes booleans of both), or as the machine suggests.
Choice = Literal["auto"] | bool

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be run; the text names key, what was given, what is allowed."""


def parse(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Turn plain values (YAML, `--params`) into the typed config `kind`.

    `where` is the key under which the user wrote them (`pretrain`). Raises `ConfigError` that lists
    every mistake at once: full key, what was given, nearest known key or allowed values.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        lines = [_explain(kind, where, dict(detail)) for detail in error.errors()]
        text = "\n".join(f"  - {line}" for line in lines)
        raise ConfigError(f"the configuration cannot be used:\n{text}") from None


def to_plain(config: Any) -> Any:
    """A config as plain containers (dicts, lists, numbers, strings), ready for JSON or YAML."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def _explain(kind: Any, where: str, detail: dict[str, Any]) -> str:
    path = list(detail["loc"])
    owner, shown = _walk(kind, path[:-1])
    key = ".".join([where, *shown, *(str(part) for part in path[-1:])])
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key}: there is no such key; {_allowed(path[-1], _keys(owner))}"
    if detail["type"].startswith("union_tag"):
        union, _ = _walk(kind, path)
        tags = [tag for tag in map(_tag, _members(union)) if tag]
        if detail["type"] == "union_tag_not_found":
            return f"{key}.name: this key is required here; allowed: {', '.join(tags)}"
        tag = detail["ctx"]["tag"]
        return f"{key}.name: given {tag!r}, which does not exist; {_allowed(tag, tags)}"
    if detail["type"] == "missing":
        return f"{key}: this key is required and was not given"
    text = detail["msg"]
    if detail["type"] == "value_error":  # our own words, as they were written
        text = text.removeprefix("Value error, ")
    else:
        text = text[:1].lower() + text[1:]
    return f"{key}: given {detail.get('input')!r}, {text}"


def _allowed(given: Any, known: list[str]) -> str:
    near = get_close_matches(str(given), known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return f"{hint}allowed here: {', '.join(known)}"


def _walk(kind: Any, path: list[Any]) -> tuple[Any, list[str]]:
    """Follow an error's location through classes and tagged unions, dropping the unions' tags."""
    shown: list[str] = []
    for part in path:
        kind = _strip(kind)
        members = _members(kind)
        tagged = [m for m in members if part == _tag(m)]
        if tagged:
            kind = tagged[0]
            continue
        if members:
            kind = next((m for m in members if is_dataclass(m) and part in _keys(m)), kind)
        shown.append(str(part))
        if is_dataclass(kind) and part in _keys(kind):
            kind = get_type_hints(kind, include_extras=True)[part]
    return _strip(kind), shown


def _strip(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _members(kind: Any) -> list[Any]:
    """The types a union allows; none for anything else."""
    return [_strip(k) for k in get_args(kind)] if get_origin(kind) in (Union, UnionType) else []


def _tag(kind: Any) -> str | None:
    """The value of a class's `name: Literal[...]` field, by which unions tell members apart."""
    hint = get_type_hints(kind).get("name") if is_dataclass(kind) else None
    return get_args(hint)[0] if get_origin(hint) is Literal else None


def _keys(kind: Any) -> list[str]:
    if is_dataclass(kind):
        return [field.name for field in fields(kind)]
    return sorted({key for member in _members(kind) for key in _keys(member)})
