"""The experiment's name: method, a short hash of what was configured, seed (`cmae-3f2a-s0`)."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

AUTO = "auto"
#: The sections that decide what an encoder is; how it is evaluated does not rename it.
HASHED = ("dataset", "crop_boxes", "pretrain")
#: Further sections, of methods whose training learns from another stage.
LEARNS_FROM = {"supmim": ("tokenizer",)}
#: Keys of these sections that change how a run is done and not what it learns.
FREE = ("workers", "log_every", "save_minutes", "accumulate", "nonfinite")
#: Top-level parameters that are the wiring's own and not a section of the library's configuration.
OWN_PARAMETERS = ("experiment", "data", "tracking")
#: Keys of the group `experiment` that list what `dvc repro` runs, and what each lists.
MATRIX = {"methods": str, "token_methods": str, "seeds": int}
_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def experiment_name(params: Mapping[str, Any]) -> str:
    """The name of the experiment that `params` describe, which is also its folder's name.

    `experiment` is a group with `name`, or the name itself. Works on plain values and never fails:
    paths are resolved before the parameters are checked.
    """
    given = params.get("experiment", AUTO)
    if isinstance(given, Mapping):
        given = given.get("name", AUTO)
    return automatic_name(params) if given == AUTO else str(given)


def automatic_name(params: Mapping[str, Any]) -> str:
    """Method, hash and seed, whatever name was given."""
    method = _section(_section(params, "pretrain"), "method").get("name", "experiment")
    return f"{method}-{config_hash(params)}-s{params.get('seed', 0)}"


def config_hash(params: Mapping[str, Any]) -> str:
    """Four hex digits over what decides what an encoder is, as it was written.

    Leaving a key out and writing its default give different hashes.
    """
    method = _section(_section(params, "pretrain"), "method").get("name")
    names = (*HASHED, *LEARNS_FROM.get(method, ()))
    sections = {name: _section(params, name) for name in names}
    kept = {
        name: {key: value for key, value in section.items() if key not in FREE}
        for name, section in sections.items()
    }
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:4]


def check_name(name: str) -> None:
    """Refuse names that are not one plain folder name; raises `ConfigError`."""
    from contramask.typed import ConfigError

    if not _ALLOWED.fullmatch(name):
        raise ConfigError(
            f"experiment: given {name!r}; a name holds letters, digits, `.`, `_` and `-` and "
            "starts with a letter or digit. Leave it out to get one like `cmae-3f2a-s0`."
        )


def check_matrix(params: Mapping[str, Any]) -> None:
    """Refuse a group `experiment` that names no matrix of experiments; raises `ConfigError`."""
    from contramask.typed import ConfigError

    group = _section(params, "experiment")
    unknown = sorted(set(group) - {"name", *MATRIX})
    if unknown:
        known = ", ".join(["name", *MATRIX])
        raise ConfigError(f"experiment.{unknown[0]}: there is no such key; allowed here: {known}")
    for key, kind in MATRIX.items():
        values = group.get(key, [])
        whole = isinstance(values, list) and all(type(value) is kind for value in values)
        if not whole or len(set(values)) < len(values):
            what = "whole numbers" if kind is int else "names"
            raise ConfigError(
                f"experiment.{key}: given {values!r}; a list of {what}, each once, is expected"
            )
    both = set(group.get("methods", [])) & set(group.get("token_methods", []))
    if both:
        raise ConfigError(
            f"experiment: {', '.join(sorted(both))} stands under methods and under token_methods; "
            "leave it in one of them"
        )


def _section(params: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = params.get(key)
    return value if isinstance(value, Mapping) else {}
