"""What a detector found and where it was wrong, drawn from boxes, crops and tables of its stage."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from contramask.report import figures
from contramask.report.charts import RIGHT, TOP, Tick, class_name, ticks
from contramask.report.figures import Picture
from contramask.report.sections import Owner
from contramask.report.tables import ANCHOR, METHOD_NAMES
from contramask.report.verdict import signed

#: Boxes drawn in one picture, the surest ones; mistakes of either kind that are shown.
MAX_BOXES, MAX_ERRORS = 8, 5
#: How a stored crop was cut, as `contramask.transfer.mistakes` does: this much wider than the
#: longer side of its box, which counts as at least so many pixels.
CONTEXT, SHORTEST = 1.6, 4.0
#: Classes a chart shows, letters of a class's name in it, and the room of a letter, a bar and the
#: gap between two classes (chart units).
MAX_CLASSES, MAX_LETTERS, LETTER, BAR, BETWEEN = 20, 13, 5.8, 5.0, 7.0
#: Column of a table by class -> title of its chart.
MEASURES = {"box_ap": "Finding objects, by class", "mask_ap": "Cutting out objects, by class"}


@dataclass(frozen=True)
class Errors:
    """An encoder's surest invented objects and its largest missed ones."""

    variant: str
    invented: tuple[Picture, ...]
    missed: tuple[Picture, ...]

    @property
    def kinds(self) -> tuple[tuple[str, tuple[Picture, ...]], ...]:
        """Both kinds by name, without an empty one."""
        both = (("Invented, the surest", self.invented), ("Missed, the largest", self.missed))
        return tuple(kind for kind in both if kind[1])

    def pictures(self) -> tuple[Picture, ...]:
        """All crops."""
        return (*self.invented, *self.missed)


@dataclass(frozen=True)
class Bar:
    """One bar to `x` at height `y`, and the number of its variant."""

    x: float
    y: float
    series: int


@dataclass(frozen=True)
class ClassChart:
    """Bars of all variants for each class, from `start` on; `height` of all, `bottom` of them."""

    title: str
    note: str
    start: float
    height: float
    bottom: float
    names: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]
    gains: tuple[str, ...]
    variants: tuple[str, ...]
    alt: str


def found_picture(
    owner: Owner, names: Sequence[str], count: int, min_score: float, tile: int
) -> Picture | None:
    """Validation images with the boxes and masks found in them; None where none were kept."""
    images, boxes = owner.array("images"), owner.tables().get("boxes")
    if images is None or boxes is None:
        return None
    shown = sure_boxes(boxes[boxes["image"] < count], min_score)
    file = f"detection-{owner.stage.experiment}-{owner.key}"
    return figures.detection_picture(file, owner.variant, images[:count], shown, names, tile)


def sure_boxes(boxes: pd.DataFrame, min_score: float) -> pd.DataFrame:
    """Of every image the boxes scored at least `min_score`, or its best one if none is."""
    ranked = boxes.sort_values(["image", "score"], ascending=[True, False], kind="stable")
    place = ranked.groupby("image").cumcount()
    return ranked[(place == 0) | ((ranked["score"] >= min_score) & (place < MAX_BOXES))]


def errors(owner: Owner, names: Sequence[str], tile: int) -> Errors | None:
    """Crops of what a detector invented and missed; None where the stage kept none."""
    crops, table = owner.array("mistakes"), owner.tables().get("mistakes")
    if crops is None or table is None or len(crops) != len(table):
        return None
    drawn: dict[str, list[Picture]] = {"invented": [], "missed": []}
    for crop, row in zip(figures.to_rgb(crops), table.to_dict("records"), strict=True):
        own = drawn[row["kind"]]
        if len(own) < MAX_ERRORS:
            name = f"{row['kind']}-{owner.stage.experiment}-{owner.key}-{len(own) + 1}"
            own.append(_crop(name, owner.variant, crop, row, names, tile))
    if not any(drawn.values()):
        return None
    return Errors(owner.variant, tuple(drawn["invented"]), tuple(drawn["missed"]))


def _crop(
    name: str,
    variant: str,
    crop: np.ndarray,
    row: Mapping[Hashable, Any],
    names: Sequence[str],
    tile: int,
) -> Picture:
    """One crop with its box, orange for an invented object and white for a missed one."""
    picture = figures.fit(crop, tile)
    width, height = row["x1"] - row["x0"], row["y1"] - row["y0"]
    scale = min(picture.size) / (max(width, height, SHORTEST) * CONTEXT)
    reach = np.array([-width, -height, width, height]) / 2 * scale
    box = (np.array(picture.size * 2) / 2 + reach).tolist()
    invented = row["kind"] == "invented"
    figures.outline(picture, box, figures.FOUND if invented else figures.TRUE)
    said = class_name(int(row["category"]), names)
    if invented:
        title = f"{said}, {100 * row['score']:.0f}\N{NO-BREAK SPACE}% sure"
    else:
        size = f"{width:.0f}\N{NO-BREAK SPACE}\N{MULTIPLICATION SIGN}\N{NO-BREAK SPACE}{height:.0f}"
        title = f"{said}, {size}\N{NO-BREAK SPACE}px"
    place = f"validation image {int(row['image'])}"
    alt = f"{variant} {row['kind']} this object in {place}: {title}."
    return Picture(name, figures.encode_png(np.array(picture)), picture.size, title, alt)


def class_charts(tables: Mapping[str, pd.DataFrame], order: Sequence[str]) -> list[ClassChart]:
    """Average precision by class, one chart a measure, one bar a variant.

    `tables` maps variants to the columns class, objects and those of `MEASURES`. Above
    `MAX_CLASSES` classes only those with the most objects are drawn.
    """
    charts = []
    for measure, title in MEASURES.items():
        own = {name: t for name, t in tables.items() if {"class", "objects", measure} <= set(t)}
        columns = {n: t.set_index(t["class"].astype(str))[measure] for n, t in own.items()}
        values = pd.DataFrame(columns).astype(float)
        if values.notna().any(axis=None):
            first = next(iter(own.values()))
            objects = pd.Series(first["objects"].to_numpy(), first["class"].astype(str))
            charts.append(_class_chart(title, values, objects, order))
    return charts


def _class_chart(
    title: str, values: pd.DataFrame, objects: pd.Series, order: Sequence[str]
) -> ClassChart:
    """`values`: one row a class, one column a variant; `objects`: how many there are of each."""
    total = len(values)
    objects = objects.reindex(values.index).fillna(0)
    shown = values.loc[objects.sort_values(ascending=False, kind="stable").index[:MAX_CLASSES]]
    if total <= MAX_CLASSES:
        shown = values
    edge = 8 + LETTER * min(max(len(str(name)) for name in shown.index), MAX_LETTERS)
    x_ticks, low, high = ticks(0.0, max(float(np.nanmax(shown)), 1.0), edge, RIGHT)
    unit = (RIGHT - edge) / (high - low)
    start = edge - low * unit  # of the bars: the axis begins a little below 0
    room = BAR * len(shown.columns) + BETWEEN
    middles = [round(TOP + row * room + (room - BETWEEN) / 2, 1) for row in range(len(shown))]
    names = [Tick(y, _short(str(name))) for y, name in zip(middles, shown.index, strict=True)]
    means = "; ".join(f"{name} {shown[name].mean():.1f}" for name in shown)
    note = f"percent; {_range(objects.loc[shown.index])} objects a class"
    if len(shown) < total:
        note += f"; the {len(shown)} of {total} classes with the most objects"
    bottom = TOP + len(shown) * room
    return ClassChart(
        title=title,
        note=note,
        start=round(start, 1),
        height=round(bottom + 20, 1),
        bottom=round(bottom, 1),
        names=tuple(names),
        x_ticks=tuple(x_ticks),
        bars=tuple(_bars(shown, start, unit, order)),
        gains=tuple(_gains(values)),
        variants=tuple(shown),
        alt=f"{title}, average precision in percent, means over the classes: {means}.",
    )


def _bars(values: pd.DataFrame, start: float, unit: float, order: Sequence[str]) -> Iterator[Bar]:
    """A bar for every number: classes from the top, in each of them the variants."""
    for row, (_, line) in enumerate(values.iterrows()):
        top = TOP + row * (BAR * len(line) + BETWEEN)
        for place, (variant, value) in enumerate(line.items()):
            if np.isfinite(value):
                series = order.index(variant) if variant in order else 0
                y = round(top + BAR * (place + 0.5), 1)
                yield Bar(round(start + value * unit, 1), y, series)


def _short(name: str) -> str:
    return name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…"


def _range(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _gains(values: pd.DataFrame) -> list[str]:
    """For every trained variant the classes that gain most and least over random init."""
    anchors = [name for name in values if str(name).startswith(METHOD_NAMES[ANCHOR])]
    if len(anchors) != 1:
        return []
    lines = []
    for name in (n for n in values if n not in anchors):
        gain = (values[name] - values[anchors[0]]).dropna()
        if len(gain) > 1:
            best, worst = gain.idxmax(), gain.idxmin()
            lines.append(
                f"{name} gains most on {best} ({signed(float(gain[best]))} points) "
                f"and least on {worst} ({signed(float(gain[worst]))})"
            )
    return lines
