"""What each pre-training has spent, and who may be compared with whom at equal cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from contramask.report.charts import Panel
from contramask.report.intervals import Cell, half_width, paired_differences
from contramask.report.scatter import Point, score_panel
from contramask.report.sections import Table, in_words
from contramask.report.tables import ANCHOR, METHOD_NAMES, MainTable, Measured, Stage
from contramask.report.verdict import signed

#: Compute that differs by less counts as equal.
TOLERANCE = 0.1
#: Metrics whose columns are drawn against compute.
DRAWN = ("knn_top1", "linear_top1")
#: Unit -> GFLOP in it.
UNITS = {"GFLOP": 1.0, "TFLOP": 1e3, "PFLOP": 1e6, "EFLOP": 1e9, "ZFLOP": 1e12}
UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True)
class Cost:
    """What one variant's pre-training took, means over its seeds; None where it is not known."""

    variant: str
    epochs: float | None
    images: float | None  # seen in all, repeats counted
    gflop: float | None  # an image, forward and backward
    seconds: float | None
    energy_kwh: float | None

    @property
    def total(self) -> float | None:
        """GFLOP of the whole pre-training."""
        return None if self.gflop is None or self.images is None else self.gflop * self.images


def pretraining_costs(
    rows: pd.DataFrame,
    stages: Sequence[Stage],
    variants: Mapping[str, str],
    order: Sequence[str],
) -> list[Cost]:
    """The cost of every variant that was pre-trained, in the order of the tables.

    From the rows gflop_per_image and seconds, the plan's images and epochs, and, where a stage
    states them, energy_kwh or power_watts.
    """
    own = rows[rows["protocol"] == "pretrain"]
    facts: dict[str, list[Mapping[str, object]]] = {}
    for stage in stages:
        if stage.task == "pretrain" and stage.skipped is None:
            facts.setdefault(variants[stage.experiment], []).append(stage.output.facts)
    costs = []
    for variant in (name for name in order if name in facts):
        measured = own[own["variant"] == variant].groupby("metric")["value"].mean()
        plans = [_mapping(fact.get("plan")) for fact in facts[variant]]
        epochs = _mean([plan.get("epochs") for plan in plans])
        images = _mean([plan.get("images") for plan in plans])
        costs.append(
            Cost(
                variant=variant,
                epochs=epochs,
                images=None if epochs is None or images is None else epochs * images,
                gflop=_mean([measured.get("gflop_per_image")]),
                seconds=_mean([measured.get("seconds")]),
                energy_kwh=_mean([_energy(fact) for fact in facts[variant]]),
            )
        )
    return costs


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _mean(values: Sequence[object]) -> float | None:
    known = [float(v) for v in values if isinstance(v, int | float) and np.isfinite(v)]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _energy(facts: Mapping[str, object]) -> float | None:
    stated, watts, seconds = (facts.get(k) for k in ("energy_kwh", "power_watts", "seconds"))
    if isinstance(stated, int | float):
        return float(stated)
    if isinstance(watts, int | float) and isinstance(seconds, int | float):
        return watts * seconds / 3.6e6
    return None


def unit_of(totals: Sequence[float]) -> str:
    """The largest unit in which the largest of these GFLOP is at least 1."""
    largest = max(totals, default=0.0)
    return [name for name, size in UNITS.items() if name == "GFLOP" or largest >= size][-1]


def cost_table(costs: Sequence[Cost]) -> Table | None:
    """What each variant has spent, and for how many epochs the dearest one's compute would do."""
    totals = [cost.total for cost in costs if cost.total]
    if not totals:
        return None
    unit, most = unit_of(totals), max(totals)
    dearest = next(cost.variant for cost in costs if cost.total == most)
    heads = ["", "Epochs", "Images seen", "GFLOP per image", f"{unit} in all"]
    heads += ["Seconds", f"Epochs for the compute of {dearest}"]
    if any(cost.energy_kwh is not None for cost in costs):
        heads.append("kWh, estimated")
    lines = []
    for cost in costs:
        total, epochs = cost.total, cost.epochs
        affordable = None if not total or epochs is None else epochs * most / total
        words = [_number(epochs, 0), _number(cost.images, 0), _number(cost.gflop, 3)]
        words += [_number(None if total is None else total / UNITS[unit], 1)]
        words += [_number(cost.seconds, 0), _number(affordable, 0)]
        words += [_number(cost.energy_kwh, 3)] * (len(heads) - 7)
        lines.append((cost.variant, *words))
    return Table("What pre-training has spent (means over seeds)", tuple(heads), tuple(lines))


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def equal_groups(costs: Sequence[Cost]) -> tuple[list[list[Cost]], list[list[Cost]]]:
    """Variants of equal epochs, and of equal compute; each group holds two or more."""
    epochs: dict[float, list[Cost]] = {}
    for cost in costs:
        if cost.epochs is not None:
            epochs.setdefault(cost.epochs, []).append(cost)
    compute: list[list[Cost]] = []
    for cost in sorted((c for c in costs if c.total), key=lambda c: c.total or 0.0):
        first = compute[-1][0].total if compute else None
        if first and (cost.total or 0.0) <= first * (1 + TOLERANCE):
            compute[-1].append(cost)
        else:
            compute.append([cost])
    several = [group for group in epochs.values() if len(group) > 1]
    return several, [group for group in compute if len(group) > 1]


def equal_tables(costs: Sequence[Cost], table: MainTable) -> list[Table]:
    """The scores of the variants of equal epochs, and of those of equal compute."""
    by_epochs, by_compute = equal_groups(costs)
    unit = unit_of([cost.total for cost in costs if cost.total])
    named = [(f"At equal epochs: {in_words(group[0].epochs)}", group) for group in by_epochs]
    for group in by_compute:
        totals = [(cost.total or 0.0) / UNITS[unit] for cost in group]
        words = f"{min(totals):,.1f} to {max(totals):,.1f} {unit}"
        named.append((f"At equal compute, within {100 * TOLERANCE:.0f} %: {words}", group))
    heads = ("", *(column.task.title for column in table.columns))
    made = []
    for caption, group in named:
        lines = []
        for cost in group:
            cells = [column.cells.get(cost.variant) for column in table.columns]
            lines.append((cost.variant, *(UNKNOWN if c is None else _value(c) for c in cells)))
        made.append(Table(f"{caption} (percent)", heads, tuple(lines)))
    return made


def _value(cell: Cell) -> str:
    margin = cell.interval
    return f"{cell.mean:.1f}" + ("" if margin is None else f" ± {margin:.1f}")


def remarks(costs: Sequence[Cost]) -> list[str]:
    """What equal epochs hides, and what would make the comparison fair."""
    known = sorted((c for c in costs if c.total), key=lambda c: c.total or 0.0)
    said = []
    by_epochs, by_compute = equal_groups(costs)
    if len(known) > 1:
        least, most = known[0], known[-1]
        ratio = (most.total or 0.0) / (least.total or 1.0)
        if by_epochs and ratio > 1 + TOLERANCE:
            said.append(
                "Equal epochs hides that an epoch of one method costs more than one of another: "
                f"the dearest here, {most.variant}, has spent {ratio:.1f} times the compute of "
                f"{least.variant}. A second branch or view is paid for; whoever has the same "
                "compute may train the cheaper one longer."
            )
        if not by_compute and least.epochs is not None:
            said.append(
                "No two variants have spent the same compute. "
                f"{least.variant} with pretrain.epochs = {round(least.epochs * ratio)} would cost "
                f"as much as {most.variant}; until it is trained, their scores at equal compute "
                "are not known."
            )
    if costs and all(cost.energy_kwh is None for cost in costs):
        said.append("Energy is not known: no stage has noted what power its device draws.")
    return said


def score_panels(costs: Sequence[Cost], table: MainTable, order: Sequence[str]) -> list[Panel]:
    """kNN and linear top-1 against the compute of pre-training, where both are known."""
    spent = {cost.variant: cost.total for cost in costs if cost.total}
    unit = unit_of(list(spent.values()))
    panels = []
    for column in (column for column in table.columns if column.task.metric in DRAWN):
        points = [
            Point(name, total / UNITS[unit], column.cells[name].mean, column.cells[name].interval)
            for name, total in spent.items()
            if name in column.cells
        ]
        if points:
            panels.append(score_panel(column.task.title, points, unit, _anchor(column), order))
    return panels


def _anchor(column: Measured) -> float | None:
    means = [c.mean for name, c in column.cells.items() if name.startswith(METHOD_NAMES[ANCHOR])]
    return means[0] if len(means) == 1 else None


def baseline_table(table: MainTable, baseline: str) -> Table | None:
    """Differences to a method, paired by seed; None where it, or another to compare, is missing."""
    start = METHOD_NAMES.get(baseline, baseline)
    base = next((n for n in table.variants if n == start or n.startswith(f"{start} ")), "")
    others = [name for name in table.variants if name != base and not _is_anchor(name)]
    if not base or not others:
        return None
    lines = []
    for name in others:
        cells = [(column.cells.get(name), column.cells.get(base)) for column in table.columns]
        lines.append((name, *(_against(own, other) for own, other in cells)))
    caption = (
        f"Difference to {base} in points, paired by seed: mean ± 95 % interval over the seeds that "
        "both have"
    )
    return Table(caption, ("", *(column.task.title for column in table.columns)), tuple(lines))


def _is_anchor(name: str) -> bool:
    return name.startswith(METHOD_NAMES[ANCHOR])


def _against(own: Cell | None, base: Cell | None) -> str:
    if own is None or base is None:
        return UNKNOWN
    mine, theirs = (dict(zip(cell.seeds, cell.values, strict=True)) for cell in (own, base))
    gaps = paired_differences(mine, theirs)
    if not gaps:
        return "no seed in common"
    margin = half_width(gaps)
    return signed(float(np.mean(gaps))) + ("" if margin is None else f" ± {margin:.1f}")
