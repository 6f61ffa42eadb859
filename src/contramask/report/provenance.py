"""How the numbers were measured and where they come from: settings, code, machines, commands."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from contramask.report.sections import TASK_TITLES, Table, frame_table, in_words, task_title
from contramask.report.tables import Stage

#: Settings that change no number.
BOOKKEEPING = ("anchor", "log_every", "pictures", "worst", "cache_megabytes", "classes", "enabled")

#: Stages that measure nothing; their settings stand elsewhere.
TRAINING = ("tokenizer", "pretrain")


def protocol_lines(stages: Sequence[Stage]) -> list[tuple[str, str]]:
    """(task, its settings in words), and a word where experiments were measured differently."""
    lines = []
    for task, title in TASK_TITLES.items():
        configs = {
            stage.experiment: stage.output.facts.get("config") or {}
            for stage in stages
            if stage.task == task and task not in TRAINING and stage.skipped is None
        }
        shown = next((config for config in configs.values() if config), None)
        if shown is None:
            continue
        text = ", ".join(f"{key} = {in_words(value)}" for key, value in _telling(shown).items())
        other = [name for name, config in configs.items() if _science(config) != _science(shown)]
        if other:
            text += f". Measured with other settings, so not comparable: {in_words(other)}"
        lines.append((title, text + "."))
    return lines


def _science(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that may change a number, nested ones too."""
    return {
        key: _science(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in BOOKKEEPING
    }


def _telling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings a reader needs beside a number: those on top, and how long was trained."""
    top = {
        key: value
        for key, value in config.items()
        if not isinstance(value, Mapping) and value is not None and key not in BOOKKEEPING
    }
    groups = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    return top | {f"{k}.epochs": each["epochs"] for k, each in groups.items() if "epochs" in each}


def experiment_table(rows: pd.DataFrame) -> Table:
    """Which code and configuration made the numbers, one row an experiment."""
    names = ["experiment", "method", "seed", "encoder", "config_hash", "code_revision", "date"]
    own = rows[names].groupby("experiment", as_index=False).agg(lambda v: in_words(sorted(set(v))))
    own["code_revision"] = own["code_revision"].map(revision_in_words)
    return frame_table("Where the numbers come from", own[names])


def revision_in_words(revision: str) -> str:
    """`abc+` as "abc with local changes": files differed from what was committed."""
    return revision.replace("+", " with local changes")


def stage_table(stages: Sequence[Stage]) -> Table:
    """Which machine ran which stage for how long, and its run in the logbook where one is known."""
    lines: list[tuple[str, ...]] = []
    place = {task: number for number, task in enumerate(TASK_TITLES)}
    for stage in sorted(stages, key=lambda s: (s.experiment, place.get(s.task, len(place)))):
        facts = {**(stage.output.facts.get("plan") or {}), **stage.output.facts}
        seconds = facts.get("seconds")
        took = f"{float(seconds):,.1f}" if isinstance(seconds, int | float) else "\N{EN DASH}"
        machine = "not run" if stage.skipped is not None else in_words(facts.get("machine"))
        finished = in_words(facts.get("finished")).replace("T", " ").removesuffix("+00:00")
        run = _run_cell(facts.get("mlflow") or {})
        lines.append((stage.experiment, task_title(stage.task), took, finished, machine, run))
    heads = ("Experiment", "Stage", "Seconds", "Finished (UTC)", "Machine", "MLflow run")
    blank = {3: in_words(None), 5: ""}  # what older stages did not note needs no column
    used = [n for n in range(len(heads)) if any(line[n] != blank.get(n) for line in lines)]
    rows = tuple(tuple(line[n] for n in used) for line in lines)
    return Table("Stages, their time and their machine", tuple(heads[n] for n in used), rows)


def _run_cell(link: Mapping[str, Any]) -> str:
    """A link to the run's page where a server shows one, otherwise the run's id.

    Only addresses of the web are linked: a page may be handed on, and must not run anything.
    """
    run_id, url = str(link.get("run_id", "")), str(link.get("url", ""))
    if not url.startswith(("http://", "https://")):
        return run_id
    return Markup('<a href="{}" rel="noreferrer">{}</a>').format(url, run_id)


def plain_facts(stages: Sequence[Stage], key: str) -> list[tuple[str, str]]:
    """(what, text) of one fact over all stages, equal texts once."""
    texts: dict[str, list[str]] = {}
    for stage in stages:
        value = stage.output.facts.get(key)
        if value:
            texts.setdefault(_as_text(value), []).append(f"{stage.experiment}/{stage.task}")
    return [(in_words(names), text) for text, names in texts.items()]


def _as_text(value: Any) -> str:
    """Text as it is, one level of texts (`torch` -> `2.15.0`) as a list, the rest as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values()):
        return "\n".join(f"{key} {each}" for key, each in sorted(value.items()))
    return json.dumps(value, indent=2, sort_keys=True)
