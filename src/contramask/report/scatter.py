"""Charts of dots: how sure a classifier may be believed to be, and scores against compute."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from contramask.report.charts import BOTTOM, LEFT, RIGHT, TOP, Line, Mark, Panel, Tick, ticks

#: Two names in a chart stand at least this far apart, in chart units.
LEADING = 12.0


@dataclass(frozen=True)
class Point:
    """One variant in a chart: its values on both axes, and half the interval of the second."""

    name: str
    x: float
    y: float
    margin: float | None = None


def calibration_panel(tables: Mapping[str, pd.DataFrame], order: Sequence[str]) -> Panel | None:
    """Accuracy against confidence by bins, one line a variant; None without any.

    `tables` maps variants to the columns confidence and accuracy (percent) and images.
    """
    found = {name: table for name, table in tables.items() if len(table)}
    if not found:
        return None
    lines, marks, said = [], [], []
    for name, table in found.items():
        series = order.index(name) if name in order else 0
        xs = LEFT + table["confidence"].to_numpy(float) / 100 * (RIGHT - LEFT)
        ys = BOTTOM + table["accuracy"].to_numpy(float) / 100 * (TOP - BOTTOM)
        pairs = list(zip(xs.round(1), ys.round(1), strict=True))
        lines.append(Line(name, series, "M" + "L".join(f"{x} {y}" for x, y in pairs)))
        marks += [Mark(float(x), float(y), series) for x, y in pairs]
        weights = table["images"].to_numpy(float) / table["images"].sum()
        sure, right = (float((table[c] * weights).sum()) for c in ("confidence", "accuracy"))
        said.append(f"{name} is {sure:.0f} % sure and {right:.0f} % right on average")
    percents = [0, 25, 50, 75, 100]
    return Panel(
        title="Calibration",
        note="share that is right, against how sure the classifier was (percent)",
        x_label="sure",
        x_ticks=tuple(Tick(LEFT + p / 100 * (RIGHT - LEFT), str(p)) for p in percents),
        y_ticks=tuple(Tick(BOTTOM + p / 100 * (TOP - BOTTOM), str(p)) for p in percents),
        lines=tuple(lines),
        alt=f"Calibration: {'; '.join(said)}.",
        marks=tuple(marks),
        guide=f"M{LEFT} {BOTTOM}L{RIGHT} {TOP}",
    )


def score_panel(
    title: str, points: Sequence[Point], unit: str, anchor: float | None, order: Sequence[str]
) -> Panel:
    """A score in percent against what was spent, one named dot a variant; `anchor` a level line."""
    reach = [p.y + s * (p.margin or 0) for p in points for s in (-1, 1)]
    levels = [*reach, *([] if anchor is None else [anchor])]
    xs = [0.0, *(p.x for p in points)]
    x_ticks, x_low, x_high = ticks(min(xs), max(xs), LEFT, RIGHT)
    y_ticks, y_low, y_high = ticks(min(levels), max(levels), BOTTOM, TOP)
    up = (TOP - BOTTOM) / (y_high - y_low)
    marks = [
        Mark(
            x=round(LEFT + (p.x - x_low) / (x_high - x_low) * (RIGHT - LEFT), 1),
            y=round(BOTTOM + (p.y - y_low) * up, 1),
            series=order.index(p.name) if p.name in order else 0,
            reach=round(abs((p.margin or 0) * up), 1),
            text=p.name,
        )
        for p in points
    ]
    said = [f"{p.name} reaches {p.y:.1f} % with {p.x:.3g} {unit}" for p in points]
    guide, text, level = "", "", 0.0
    if anchor is not None:
        level = round(BOTTOM + (anchor - y_low) * up, 1)
        guide = f"M{LEFT} {level}H{RIGHT}"
        text = f"random init {anchor:.1f}"
        said.append(f"random init {anchor:.1f} % with none")
    return Panel(
        title=title,
        note=f"percent, against {unit} of pre-training",
        x_label=unit,
        x_ticks=tuple(x_ticks),
        y_ticks=tuple(y_ticks),
        lines=(),
        alt=f"{title} against compute: {'; '.join(said)}.",
        marks=tuple(_named(marks)),
        guide=guide,
        guide_text=text,
        guide_y=round(level - 4, 1),
    )


def _named(marks: Sequence[Mark]) -> list[Mark]:
    """The marks with their names beside them, pushed apart where they would overlap."""
    placed: list[Mark] = []
    for mark in sorted(marks, key=lambda m: m.y):
        left = mark.x > (LEFT + RIGHT) / 2
        same = [m for m in placed if (m.anchor == "end") == left]
        lowest = max((m.text_y + LEADING for m in same), default=-np.inf)
        text_y = round(max(mark.y + 3.5, lowest), 1)
        placed.append(replace(mark, text_y=text_y, anchor="end" if left else "start"))
    return placed
