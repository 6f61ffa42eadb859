"""Presets: what publications set for a task, put under what one says oneself."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import click
from omegaconf import OmegaConf

#: The key of a section that names its preset, and the parameter that holds them all.
PRESET, PRESETS = "preset", "presets"


def names_one(params: Mapping[str, Any]) -> bool:
    """Whether any section of the parameters names a preset."""
    return any(isinstance(part, Mapping) and PRESET in part for part in params.values())


def with_presets(params: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put `presets.<section>.<name>` into every section that says `preset: <name>`.

    `params` are the layers merged, the lowest first: conf/base, the environment, `--params`. A
    preset lies above the layers below the one that names it, and under the keys beside its name.
    Raises `click.ClickException` for a name that does not exist.
    """
    merged = dict(params)
    for section, known in params[PRESETS].items():
        name = _section(params, section).get(PRESET)
        if name is None:
            continue
        if name not in known:
            raise click.ClickException(_unknown(section, name, list(known)))
        own = [_section(layer, section) for layer in layers]
        place = max(number for number, part in enumerate(own) if PRESET in part)
        whole = OmegaConf.merge(*own[:place], known[name], *own[place:])
        values = OmegaConf.to_container(whole)
        merged[section] = {key: value for key, value in values.items() if key != PRESET}
    return merged


def _section(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = params.get(name)
    return section if isinstance(section, Mapping) else {}


def _unknown(section: str, name: Any, known: Sequence[str]) -> str:
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return (
        f"the configuration cannot be used:\n  - {section}.preset: given {name!r}, which does not "
        f"exist; {hint}allowed here: {', '.join(known)}"
    )
