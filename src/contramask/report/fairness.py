"""Which pre-trainings may be compared at equal cost, and what they score there."""

from collections.abc import Sequence

import numpy as np

from contramask.report.charts import Panel
from contramask.report.intervals import Cell, half_width, paired_differences
from contramask.report.scatter import Point, score_panel
from contramask.report.sections import Table, in_words
from contramask.report.spending import UNITS, UNKNOWN, Cost, unit_of
from contramask.report.tables import ANCHOR, METHOD_NAMES, MainTable, Measured
from contramask.report.verdict import join, signed

#: Compute that differs by less counts as equal.
TOLERANCE = 0.1
#: Metrics whose columns are drawn against compute.
DRAWN = ("knn_top1", "linear_top1")


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
        epochs = least.affordable(most.total or 0.0)
        if not by_compute and epochs is not None:
            said.append(
                "No two variants have spent the same compute. "
                f"{least.variant} with pretrain.epochs = {round(epochs)} would cost "
                f"as much as {most.variant}; until it is trained, their scores at equal compute "
                "are not known."
            )
    partly = [cost.variant for cost in known if cost.tokenizer is None]
    if partly:
        said.append(
            f"The compute of {join(partly)} is counted without the tokenizer: what its training "
            "cost was not noted, so the true compute is larger."
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
