"""From the folders of all stages to tables: read, drop repeats, average over seeds, compare."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from contramask.report.encoders import completed, short_labels
from contramask.report.intervals import Cell, paired_differences
from contramask.results import COLUMNS, StageOutput

#: The anchor of each table: the same architecture with weights that never saw an image.
ANCHOR = "random_init"

#: How methods are called in print, in the order of the tables; others follow alphabetically.
METHOD_NAMES = {
    ANCHOR: "random init",
    "mae": "MAE",
    "cmae": "CMAE",
    "cmae_mao": "CMAE-Mao (reconstruction)",
    "conmim": "ConMIM",
    "supmim": "SupMIM",
    "supervised": "supervised",
}

#: Two rows that agree in all of these are one measurement. Every experiment measures the anchor of
#: its seed again, so the configuration's hash is not among them.
IDENTITY = [
    *("experiment", "method", "encoder", "data", "split"),
    *("protocol", "readout", "metric", "seed"),
]


@dataclass(frozen=True)
class Stage:
    """What one task of one experiment left behind."""

    experiment: str
    task: str
    output: StageOutput

    @property
    def skipped(self) -> str | None:
        """Why the task was not run, or None when it was."""
        reason = self.output.facts.get("skipped")
        return None if reason is None else str(reason)


@dataclass(frozen=True)
class Gathered:
    """All stages under a results folder, and what could not be read (`folder: reason`)."""

    stages: tuple[Stage, ...]
    unreadable: tuple[str, ...]


def gather(folder: Path) -> Gathered:
    """Read `<experiment>/<task>/` of a results folder, in alphabetical order.

    A folder that is no complete stage output is named in `unreadable` instead of failing: a report
    about the rest is worth more than none.
    """
    stages, unreadable = [], []
    for path in sorted(p for p in folder.glob("*/*") if p.is_dir() and p.name[0] != "."):
        try:
            output = StageOutput.read(path)
            missing = [name for name in COLUMNS if name not in output.rows]
            if missing:
                raise ValueError(f"results.parquet has no column {', '.join(missing)}")
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            # The machine's paths mean nothing to a reader.
            lines = str(error).replace(f"{folder}/", "").splitlines() or [type(error).__name__]
            unreadable.append(f"{path.parent.name}/{path.name}: {lines[0]}")
            continue
        stages.append(Stage(path.parent.name, path.name, output))
    return Gathered(_same_labels(stages), tuple(unreadable))


def _same_labels(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages, an encoder called by one label in all of them, however old they are."""
    full = completed(encoder_labels(stages))
    outputs = (
        replace(s.output, rows=s.output.rows.assign(encoder=s.output.rows["encoder"].map(full)))
        for s in stages
    )
    return tuple(replace(s, output=o) for s, o in zip(stages, outputs, strict=True))


def encoder_labels(stages: Sequence[Stage]) -> list[str]:
    """The labels of all encoders that were measured."""
    return sorted({str(name) for stage in stages for name in stage.output.rows["encoder"]})


def collect_rows(stages: Sequence[Stage]) -> pd.DataFrame:
    """The rows of all stages as one frame with `COLUMNS`, each measurement once (the first)."""
    frames = [stage.output.rows[COLUMNS] for stage in stages if len(stage.output.rows)]
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.concat(frames, ignore_index=True).drop_duplicates(IDENTITY)
    return rows.sort_values([*IDENTITY, "config_hash"], kind="stable").reset_index(drop=True)


def add_variants(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `variant`: the name under which a table shows them.

    It is the method's name, followed by the configuration's hash or by what tells the encoder from
    the others only where the rows hold several of them.
    """
    encoders = short_labels(rows["encoder"].astype(str))
    hashes = rows.groupby("method")["config_hash"].nunique().to_dict()
    names = []
    for method, encoder, config in zip(
        rows["method"], rows["encoder"], rows["config_hash"], strict=True
    ):
        parts = [METHOD_NAMES.get(method, str(method))]
        if method != ANCHOR and hashes[method] > 1:
            parts.append(str(config))
        if encoders[str(encoder)]:
            parts.append(encoders[str(encoder)])
        names.append(" ".join(parts))
    return rows.assign(variant=pd.Series(names, index=rows.index, dtype="str"))


def variant_order(rows: pd.DataFrame) -> list[str]:
    """The variants of the rows: the anchor first, known methods in their order, then the others."""
    known = list(METHOD_NAMES)
    pairs = sorted(
        set(zip(rows["method"], rows["variant"], strict=True)),
        key=lambda pair: (known.index(pair[0]) if pair[0] in known else len(known), pair[1]),
    )
    return list(dict.fromkeys(variant for _, variant in pairs))


@dataclass(frozen=True)
class Task:
    """One column of the main table: what was measured, and what it tells."""

    title: str
    metric: str
    protocols: tuple[str, ...]  # the first that the rows have is shown
    aim: str  # what one would use the encoder for
    meaning: str


_DETECTORS = ("mask_rcnn", "faster_rcnn", "cascade_mask_rcnn", "cascade_faster_rcnn")
TASKS = (
    Task(
        *("kNN", "knn_top1", ("knn",), "Search by similarity"),
        "Nothing is trained: an image gets the label of its nearest training images.",
    ),
    Task(
        *("5-shot", "low_shot_top1", ("5-shot", "low_shot"), "Five labels a class"),
        "A linear classifier on frozen features that sees only five labelled images of each class.",
    ),
    Task(
        *("Linear", "linear_top1", ("linear",), "Frozen features"),
        "A linear classifier on frozen features, trained with all labels.",
    ),
    Task(
        *("Attentive", "attentive_top1", ("attentive ep", "attentive cross"), "Frozen patches"),
        "A linear classifier on frozen features that also learns which patches to look at.",
    ),
    Task(
        *("mAP@R", "map_at_r", ("retrieval",), "Finding similar images"),
        "Nothing is trained: how many of the most similar training images are of the same class.",
    ),
    Task(
        *("Fine-tune", "finetune_top1", ("finetune",), "Fine-tuning"),
        "All weights go on learning with all labels.",
    ),
    Task(
        *("mIoU linear", "miou", ("linear",), "Segmentation, linear head"),
        "Every patch is classified from frozen features; overlap with the true regions.",
    ),
    Task(
        *("mIoU UPerNet", "miou", ("upernet",), "Segmentation, full head"),
        "A large segmentation head is trained with the encoder; overlap with the true regions.",
    ),
    Task(
        *("mIoU DPT", "miou", ("dpt",), "Segmentation, DPT head"),
        "Another large head, DPT, is trained with the encoder; overlap with the true regions.",
    ),
    Task(
        *("Box AP", "box_ap", _DETECTORS, "Finding objects"),
        "Mask R-CNN on the encoder: average precision of boxes, COCO's definition.",
    ),
    Task(
        *("Mask AP", "mask_ap", _DETECTORS, "Cutting out objects"),
        "The same network: average precision of object masks, COCO's definition.",
    ),
)


@dataclass(frozen=True)
class Measured:
    """One task measured on one data set: how, and a cell for every variant that has one."""

    task: Task
    split: str
    protocol: str
    readout: str
    cells: dict[str, Cell]


@dataclass(frozen=True)
class MainTable:
    """What was measured on one data set: columns of cells; rows are variants."""

    data: str
    columns: tuple[Measured, ...]
    variants: tuple[str, ...]

    def seeds(self, variant: str) -> int:
        """The largest number of seeds in a variant's cells."""
        cells = (column.cells.get(variant) for column in self.columns)
        return max((len(cell.values) for cell in cells if cell is not None), default=0)


def main_tables(rows: pd.DataFrame, readout: str) -> list[MainTable]:
    """One table for each data set in the rows (with `variant`) on which something was measured."""
    made = []
    for data, own in rows.groupby("data"):
        columns = tuple(measure(own, readout))
        shown = [v for v in variant_order(own) if any(v in column.cells for column in columns)]
        if columns:
            made.append(MainTable(str(data), columns, tuple(shown)))
    return made


def measure(rows: pd.DataFrame, readout: str) -> list[Measured]:
    """The columns of the main table, from the rows (with `variant`) of one data set.

    A column shows one split, protocol and readout for all its methods: `val` and `readout` where
    the rows have them, otherwise what most of them have.
    """
    columns = []
    for task in TASKS:
        chosen = rows[(rows["metric"] == task.metric) & rows["protocol"].isin(task.protocols)]
        chosen = chosen[chosen["value"].notna()]
        if chosen.empty:
            continue
        picked = {}
        for column, wanted in (
            ("split", ("val",)),
            ("protocol", task.protocols),
            ("readout", (readout,)),
        ):
            picked[column] = _prefer(chosen[column], wanted)
            chosen = chosen[chosen[column] == picked[column]]
        columns.append(Measured(task, **picked, cells=_cells(chosen)))
    return columns


def _prefer(values: pd.Series, wanted: Sequence[str]) -> str:
    counts = values.value_counts()
    found = [value for value in wanted if value in counts.index]
    return found[0] if found else str(min(counts.index, key=lambda v: (-counts[v], v)))


def _cells(rows: pd.DataFrame) -> dict[str, Cell]:
    """A cell for every variant; the anchor of a variant has the same encoder."""
    # A seed counts once, however often it was measured.
    means = rows.groupby(["variant", "method", "encoder", "seed"])["value"].mean().reset_index()
    anchors = {
        encoder: dict(zip(own["seed"], own["value"], strict=True))
        for encoder, own in means[means["method"] == ANCHOR].groupby("encoder")
    }
    cells = {}
    for variant in variant_order(rows):
        own = means[means["variant"] == variant]
        values = dict(zip(own["seed"], own["value"], strict=True))
        is_anchor = own["method"].iloc[0] == ANCHOR
        anchor = {} if is_anchor else anchors.get(own["encoder"].iloc[0], {})
        cells[variant] = Cell(
            values=tuple(values.values()),
            anchor=tuple(anchor.values()),
            seeds=tuple(values),
            paired=paired_differences(values, anchor),
        )
    found = {cell.mean for cell in cells.values()}
    ranked = len(found) > 1
    return {name: replace(c, best=ranked and c.mean == max(found)) for name, c in cells.items()}
