"""How the numbers were measured and where they come from: settings, code, machines, commands."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from contramask.report.sections import TASK_TITLES, Table, frame_table, in_words, task_title
from contramask.report.tables import Stage

#: Settings that change no number.
BOOKKEEPING = ("anchor", "log_every", "pictures", "cache_megabytes", "classes")

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
        other = [name for name, config in configs.items() if config != shown]
        if other:
            text += f". Measured with other settings, so not comparable: {in_words(other)}"
        lines.append((title, text + "."))
    return lines


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
    return frame_table("Where the numbers come from", own[names])


def stage_table(stages: Sequence[Stage]) -> Table:
    """Which machine ran which stage for how long, and its run in the logbook where one is known."""
    lines = []
    place = {task: number for number, task in enumerate(TASK_TITLES)}
    for stage in sorted(stages, key=lambda s: (s.experiment, place.get(s.task, len(place)))):
        facts = {**(stage.output.facts.get("plan") or {}), **stage.output.facts}
        seconds = facts.get("seconds")
        took = f"{float(seconds):,.1f}" if isinstance(seconds, int | float) else "\N{EN DASH}"
        machine = "not run" if stage.skipped is not None else in_words(facts.get("machine"))
        run = _run_cell(facts.get("mlflow") or {})
        lines.append((stage.experiment, task_title(stage.task), took, machine, run))
    heads = ("Experiment", "Stage", "Seconds", "Machine", "MLflow run")
    used = len(heads) if any(line[-1] for line in lines) else len(heads) - 1
    rows = tuple(line[:used] for line in lines)
    return Table("Stages, their time and their machine", heads[:used], rows)


def _run_cell(link: Mapping[str, Any]) -> str:
    """A link to the run's page where a server shows one, otherwise the run's id."""
    run_id, url = str(link.get("run_id", "")), str(link.get("url", ""))
    if not url.startswith(("http://", "https://")):
        return run_id
    return Markup('<a href="{}">{}</a>').format(url, run_id)


def plain_facts(stages: Sequence[Stage], key: str) -> list[tuple[str, str]]:
    """(what, text) of one fact over all stages, equal texts once."""
    texts: dict[str, list[str]] = {}
    for stage in stages:
        value = stage.output.facts.get(key)
        if value:
            text = value if isinstance(value, str) else json.dumps(value, indent=2, sort_keys=True)
            texts.setdefault(text, []).append(f"{stage.experiment}/{stage.task}")
    return [(in_words(names), text) for text, names in texts.items()]
