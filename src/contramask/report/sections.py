"""The parts of the page as plain tables and lists of words, ready for the template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from contramask.report.encoders import short_labels
from contramask.report.ownership import methods_in, owner_of
from contramask.report.tables import ANCHOR, METHOD_NAMES, Gathered, Stage, encoder_labels

#: Task folder -> what a reader calls it, in the order of work.
TASK_TITLES = {
    "tokenizer": "Image tokens",
    "pretrain": "Pre-training",
    "probe": "Frozen features",
    "finetune": "Fine-tuning",
    "segmentation": "Segmentation",
    "detection": "Object detection",
}
#: The stage that most methods do without.
OPTIONAL = "tokenizer"
#: Metrics of pre-training -> (heading, digits).
COSTS = {
    "parameters_m": ("Parameters (millions)", 2),
    "gflop_per_image": ("GFLOP per image", 3),
    "images_per_s": ("Images per second", 0),
    "seconds": ("Seconds of training", 0),
    "seconds_total": ("Seconds in all", 0),
    "loss": ("Final loss", 4),
}
MAX_LISTED = 24
T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """A table of words: caption, headings, rows; the first column heads its row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Owner:
    """One encoder's part of a stage: the variant shown, its key in arrays and tables, the stage."""

    variant: str
    key: str
    stage: Stage

    def array(self, name: str) -> np.ndarray | None:
        """The array `<key>/<name>`, or None."""
        return self.stage.output.arrays.get(f"{self.key}/{name}")

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of this encoder, by name."""
        return self._own(self.stage.output.arrays, f"{self.key}/")

    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables of this encoder, by name."""
        return self._own(self.stage.output.tables, f"{self.key}-")

    def _own(self, parts: Mapping[str, T], start: str) -> dict[str, T]:
        """The parts whose names begin so and belong to no longer method's name."""
        methods = {*methods_in(self.stage.output), self.key}
        return {
            name.removeprefix(start): part
            for name, part in parts.items()
            if name.startswith(start) and owner_of(name, methods) == self.key
        }


def variants_of(stages: Sequence[Stage], rows: pd.DataFrame) -> dict[str, str]:
    """Experiment -> variant.

    An experiment without rows gets the variant of another seed (`mae-1f2e-s1` for `mae-1f2e-s0`),
    or keeps its own name.
    """
    known = dict(zip(rows["experiment"], rows["variant"], strict=True)) if len(rows) else {}
    stems = {_stem(experiment): variant for experiment, variant in known.items()}
    names = {stage.experiment for stage in stages}
    return {name: known.get(name, stems.get(_stem(name), name)) for name in sorted(names)}


def _stem(experiment: str) -> str:
    return re.sub(r"-s\d+$", "", experiment)


def owners(
    stages: Sequence[Stage], task: str, variants: Mapping[str, str], order: Sequence[str]
) -> list[Owner]:
    """Who has pictures and tables in a task: every variant once, from its first experiment.

    `variants` maps experiments to variants, `order` holds all of them, the anchors' too.
    """
    found: dict[str, Owner] = {}
    encoders = short_labels(encoder_labels(stages))
    for stage in stages:
        if stage.task != task:
            continue
        for key in methods_in(stage.output):
            is_anchor = key == ANCHOR
            name = _anchor(stage, encoders, order) if is_anchor else variants[stage.experiment]
            found.setdefault(name, Owner(name, key, stage))
    return list(found.values())


def _anchor(stage: Stage, encoders: Mapping[str, str], order: Sequence[str]) -> str:
    """The anchor's variant in a stage: with its encoder's short label where there are several."""
    rows = stage.output.rows
    labels = rows.loc[rows["method"] == ANCHOR, "encoder"].astype(str).unique()
    named = [f"{METHOD_NAMES[ANCHOR]} {encoders[label]}" for label in labels]
    return next((name for name in named if name in order), METHOD_NAMES[ANCHOR])


def firsts(stages: Sequence[Stage], task: str, variants: Mapping[str, str]) -> dict[str, Stage]:
    """Variant -> its first stage of a task that was run."""
    found: dict[str, Stage] = {}
    for stage in stages:
        if stage.task == task and stage.skipped is None:
            found.setdefault(variants[stage.experiment], stage)
    return found


def in_words(value: Any) -> str:
    """A plain value as a reader wants it: 0.00025, 12,000, yes, a, b and so on."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 1000 else str(value)
    if isinstance(value, Mapping):
        return _listed([f"{key}: {in_words(item)}" for key, item in value.items()])
    if isinstance(value, list | tuple | np.ndarray):
        return _listed([in_words(item) for item in value])
    return str(value)


def _listed(words: list[str]) -> str:
    rest = len(words) - MAX_LISTED
    return (", ".join(words[:MAX_LISTED]) or "none") + (f" and {rest:,} more" if rest > 0 else "")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `a.b` -> words."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = in_words(value)
    return flat


def frame_table(caption: str, frame: pd.DataFrame, limit: int = 500) -> Table:
    """A frame as a table of words, cut after `limit` rows with a word about the rest."""
    rows = [tuple(in_words(v) for v in row) for row in frame.head(limit).itertuples(index=False)]
    if len(frame) > limit:
        caption = f"{caption} (the first {limit:,} of {len(frame):,} rows)"
    heads = tuple(str(name).replace("_", " ") for name in frame.columns)
    return Table(caption, heads, tuple(rows))


def merged_table(caption: str, frames: Mapping[str, pd.DataFrame]) -> Table:
    """Frames of several variants beside each other, joined on their first column.

    A column that says the same in all of them, such as the number of images, is shown once.
    """
    indexed = {name: frame.set_index(frame.columns[0]) for name, frame in frames.items()}
    first = next(iter(indexed.values()))
    shared = [
        column
        for column in first.columns
        if len(indexed) > 1
        and all(column in f and first[column].equals(f[column]) for f in indexed.values())
    ]
    own = {name: frame.drop(columns=shared) for name, frame in indexed.items()}
    joined = pd.concat(own, axis=1)
    joined.columns = [f"{variant}: {column}" for variant, column in joined.columns]
    joined = pd.concat([first[shared], joined], axis=1)
    return frame_table(caption, joined.rename_axis("class").reset_index())


def side_by_side(caption: str, settings: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Settings of several variants, one column each, one row a key; None without any."""
    flat = {name: flatten(values) for name, values in settings.items() if values}
    if not flat:
        return None
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    rows = tuple((key, *(v.get(key, "\N{EN DASH}") for v in flat.values())) for key in keys)
    return Table(caption, ("", *flat), rows)


def cost_table(rows: pd.DataFrame, order: Sequence[str]) -> Table | None:
    """What pre-training cost and where its loss ended, means over seeds, one row a variant."""
    caption = "What pre-training cost, and where the loss ended (means over seeds)"
    return _means_table(caption, rows[rows["protocol"] == "pretrain"], COSTS, order)


def _means_table(
    caption: str, rows: pd.DataFrame, shown: Mapping[str, tuple[str, int]], order: Sequence[str]
) -> Table | None:
    """Means over seeds, one row a variant, one column a metric; None without any.

    `shown` maps metrics to headings and decimals.
    """
    own = rows[rows["metric"].isin(list(shown))]
    if own.empty:
        return None
    means = own.pivot_table(index="variant", columns="metric", values="value", aggfunc="mean")
    heads = [metric for metric in shown if metric in means]
    lines = []
    for variant in (name for name in order if name in means.index):
        values = [means.loc[variant, metric] for metric in heads]
        digits = [shown[metric][1] for metric in heads]
        words = [
            in_words(v) if np.isnan(v) else f"{v:,.{d}f}"
            for v, d in zip(values, digits, strict=True)
        ]
        lines.append((variant, *words))
    return Table(caption, ("", *(shown[metric][0] for metric in heads)), tuple(lines))


#: Metric of the tokenizer stage -> heading and decimals, in the order of the table.
TOKENS = {
    "perplexity": ("Codes that would say as much", 0),
    "used_codes": ("Codes in use (%)", 0),
    "top_code": ("Most frequent code (%)", 1),
    "token_stability": ("Tokens kept at other brightness (%)", 0),
    "pixel_error": ("Pixel error (%)", 1),
}


def token_table(rows: pd.DataFrame, order: Sequence[str]) -> Table | None:
    """How good the image tokens are that some methods predict, means over seeds; None without."""
    caption = "Health of the tokens, measured on images the tokenizer did not see"
    return _means_table(caption, rows[rows["protocol"] == "tokenizer"], TOKENS, order)


#: What the probe measures without labels -> heading and decimals.
SPECTRUM = {
    "rankme": ("RankMe", 1),
    "feature_std": ("Feature deviation", 2),
    "uniformity": ("Uniformity", 2),
    "alignment": ("Alignment", 3),
}


def spectrum_table(rows: pd.DataFrame, readout: str, order: Sequence[str]) -> Table | None:
    """Shape of the features of one readout, means over seeds, one row a variant; None without."""
    caption = f"Shape of the frozen features, readout {readout} (means over seeds)"
    own = rows[(rows["protocol"] == "spectrum") & (rows["readout"] == readout)]
    return _means_table(caption, own, SPECTRUM, order)


def long_table(rows: pd.DataFrame) -> Table:
    """Every measured number, one row each."""
    names = ["variant", "seed", "data", "split", "protocol", "readout", "metric", "value"]
    return frame_table("All results, one row a number", rows[names], limit=2000)


def not_run(gathered: Gathered) -> list[tuple[str, str, str]]:
    """(task, why, experiments) for tasks that were skipped, are missing or cannot be read.

    A tokenizer that a method does not need is no gap.
    """
    lines: dict[tuple[str, str], list[str]] = {}
    for stage in gathered.stages:
        if stage.skipped is not None and stage.task != OPTIONAL:
            lines.setdefault((task_title(stage.task), stage.skipped), []).append(stage.experiment)
        if "without_labels" in stage.output.facts:
            key = (f"{task_title(stage.task)}, with labels", stage.output.facts["without_labels"])
            lines.setdefault(key, []).append(stage.experiment)
    have = {(stage.experiment, stage.task) for stage in gathered.stages}
    broken = {tuple(line.partition(": ")[0].split("/", 1)) for line in gathered.unreadable}
    tasks = dict.fromkeys(task for _, task in sorted(have) if task != OPTIONAL)
    for experiment in dict.fromkeys(name for name, _ in sorted(have)):
        for task in (task for task in tasks if (experiment, task) not in have | broken):
            key = (task_title(task), "there is no result, though other experiments have one")
            lines.setdefault(key, []).append(experiment)
    for line in gathered.unreadable:
        place, _, reason = line.partition(": ")
        experiment, _, task = place.partition("/")
        lines.setdefault((task_title(task), f"cannot be read ({reason})"), []).append(experiment)
    return [(task, why, in_words(names)) for (task, why), names in lines.items()]


def task_title(task: str) -> str:
    """What a reader calls a task folder."""
    return TASK_TITLES.get(task, task)
