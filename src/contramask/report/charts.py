"""Charts as plain geometry; the page draws them as SVG, which follows light and dark mode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from sklearn.decomposition import PCA

#: Size of every chart in its own units, and the plot's edges inside it.
WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 310, 10, 160

#: Points a line is thinned to, images a scatter is thinned to, classes told apart in a scatter
#: (8 colours x 2 forms of a dot), classes a confusion matrix shows.
MAX_POINTS, MAX_DOTS, MAX_COLOURS, MAX_CLASSES = 120, 600, 16, 20

#: Column of a curve -> (title, what it tells), in the order of the panels.
TERMS = {
    "loss": ("Loss", "what was minimised; compare within a method"),
    "recon_loss": ("Reconstruction loss", "error of the predicted pixels of hidden patches"),
    "contrast_loss": ("Contrastive loss (InfoNCE)", "finding the own key among all others"),
    "class_loss": ("Classification loss", "error of the predicted labels"),
    "positive_cosine": ("Positive cosine", "likeness of two views of one image"),
    "negative_cosine": ("Negative cosine", "likeness of views of different images"),
    "contrast_top1": ("Contrastive top-1", "share of views that find their own image"),
    "feature_std": ("Feature spread", "near 1 is healthy, near 0 is collapse"),
    "content_gain": (
        "Content gain",
        "how much worse another image's keys are: the part that is seen",
    ),
    "shortcut": ("Shortcut", "below 0 is healthy; above 0 positions answer, not content"),
    "match_top1": ("Patch top-1", "share of hidden patches that find their own place"),
    "match_top1_other": (
        "Patch top-1, another image",
        "the same with another image's keys: chance",
    ),
    "key_cosine": ("Likeness of an image's patches", "above 0.9 is collapse"),
    "target_distance": ("Distance of the target", "how far the moving average lags behind"),
    "effective_rank": ("Effective rank", "how many directions the features use"),
    "top1": ("Top-1 accuracy", "share of images with the right label"),
    "lr": ("Learning rate", "the schedule"),
}
#: Columns that are axes or costs, not curves.
AXES = ("step", "epoch", "images_per_s", "data_wait")


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis, in chart units."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve: the name and number of its variant, and an SVG path."""

    name: str
    series: int
    path: str


@dataclass(frozen=True)
class Mark:
    """One dot: place, the number of its variant, half its interval (chart units), its name."""

    x: float
    y: float
    series: int
    reach: float = 0.0
    text: str = ""
    text_y: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True)
class Panel:
    """One chart of several lines; `alt` says in words what it shows."""

    title: str
    note: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    alt: str
    marks: tuple[Mark, ...] = ()
    guide: str = ""  # path of a line to compare with
    guide_text: str = ""
    guide_y: float = 0.0  # of its text


@dataclass(frozen=True)
class Dots:
    """A scatter plot: one SVG path of zero-length strokes a class, and the classes' names."""

    title: str
    note: str
    classes: tuple[tuple[str, str], ...]
    alt: str


@dataclass(frozen=True)
class Square:
    """One field of a confusion matrix: corner and side in chart units, share 0-1 of its row."""

    x: float
    y: float
    side: float
    share: float
    text: str


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix, rows = true classes, columns = predicted ones."""

    title: str
    squares: tuple[Square, ...]
    names: tuple[Tick, ...]
    confused: tuple[str, ...]
    note: str
    alt: str


def curve_panels(
    curves: Mapping[str, pd.DataFrame], names: Mapping[str, str], order: Sequence[str]
) -> list[Panel]:
    """Small multiples, one panel a term, one line an experiment.

    `curves` maps experiment -> frame with `step` (and mostly `epoch`) and numeric terms; `names`
    maps experiment -> variant; a variant's place in `order` is the number of its colour.
    """
    found = {
        term
        for frame in curves.values()
        for term in frame.columns
        if term not in AXES and pd.api.types.is_numeric_dtype(frame[term])
    }
    ranked = [term for term in TERMS if term in found] + sorted(found - set(TERMS))
    panels = []
    for term in ranked:
        having = {e: f for e, f in curves.items() if term in f and f[term].notna().any()}
        axis = "epoch" if all("epoch" in frame for frame in having.values()) else "step"
        points = {e: _thin(frame[axis], frame[term]) for e, frame in having.items()}
        if points:
            panels.append(_panel(term, axis, points, names, order))
    return panels


def _panel(
    term: str,
    axis: str,
    points: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    order: Sequence[str],
) -> Panel:
    title, note = TERMS.get(term, (term.replace("_", " ").capitalize(), ""))
    every = np.concatenate(list(points.values()))
    (x_low, y_low), (x_high, y_high) = every.min(axis=0), every.max(axis=0)
    x_ticks, x_low, x_high = ticks(x_low, x_high, LEFT, RIGHT)
    y_ticks, y_low, y_high = ticks(y_low, y_high, BOTTOM, TOP)
    lines = []
    for experiment, pairs in points.items():
        xs = LEFT + (pairs[:, 0] - x_low) / (x_high - x_low) * (RIGHT - LEFT)
        ys = BOTTOM + (pairs[:, 1] - y_low) / (y_high - y_low) * (TOP - BOTTOM)
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))
        name = names[experiment]
        lines.append(Line(name, order.index(name) if name in order else 0, path))
    said = [
        f"{experiment} goes from {pairs[0, 1]:.3g} to {pairs[-1, 1]:.3g}"
        for experiment, pairs in points.items()
    ]
    alt = f"{title} by {axis}: {'; '.join(said)}."
    return Panel(title, note, axis, tuple(x_ticks), tuple(y_ticks), tuple(lines), alt)


def _thin(x: pd.Series, y: pd.Series) -> np.ndarray:
    """(n, 2) points, at most `MAX_POINTS`, each the mean of its neighbours."""
    pairs = np.stack([x.to_numpy(float), y.to_numpy(float)], axis=1)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    parts = np.array_split(pairs, min(len(pairs), MAX_POINTS)) if len(pairs) else []
    return np.array([part.mean(axis=0) for part in parts]).reshape(-1, 2)


def ticks(low: float, high: float, start: float, end: float) -> tuple[list[Tick], float, float]:
    """Round tick values inside an axis that reaches a little beyond `low` and `high`, its ends."""
    pad = 0.03 * (high - low)
    if pad < 1e-12 * max(abs(high), 1e-3):
        pad = 0.5 * abs(low) + 1e-3
    low, high = low - pad, high + pad
    values = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    values = [float(v) for v in np.where(np.abs(values) < 1e-12, 0.0, values) if low <= v <= high]
    places = [start + (value - low) / (high - low) * (end - start) for value in values]
    return [Tick(round(p, 1), f"{v:.6g}") for p, v in zip(places, values, strict=True)], low, high


def feature_dots(title: str, features: np.ndarray, labels: np.ndarray, names: list[str]) -> Dots:
    """The first two principal components of unit-length features (M, D), coloured by label (M,).

    At most `MAX_DOTS` images, evenly spaced, are drawn; the components come from all of them.
    """
    feats = np.nan_to_num(features.astype(np.float64))
    feats /= np.maximum(np.linalg.norm(feats, axis=1, keepdims=True), 1e-12)
    pca = PCA(n_components=2, svd_solver="randomized", random_state=0).fit(feats)
    keep = np.linspace(0, len(feats) - 1, min(len(feats), MAX_DOTS)).astype(int)
    flat, kept = pca.transform(feats[keep]), labels[keep]
    low, span = flat.min(axis=0), np.maximum(np.ptp(flat, axis=0), 1e-9)
    xs = 8 + (flat[:, 0] - low[0]) / span[0] * (WIDTH - 16)
    ys = HEIGHT - 8 - (flat[:, 1] - low[1]) / span[1] * (HEIGHT - 16)
    found, sizes = np.unique(kept, return_counts=True)
    told = set(found[np.argsort(-sizes, kind="stable")[:MAX_COLOURS]].tolist())
    classes = []
    for label in (label for label in found.tolist() if label in told):
        own = kept == label
        strokes = (f"M{x:.1f} {y:.1f}h0" for x, y in zip(xs[own], ys[own], strict=True))
        classes.append((class_name(int(label), names), "".join(strokes)))
    shares = pca.explained_variance_ratio_ * 100
    note = f"{shares[0]:.0f} % and {shares[1]:.0f} % of the variance"
    if len(found) > len(told):
        note += f"; the {len(told)} largest of {len(found)} classes"
    alt = f"{title}: {len(keep)} validation images by the first two principal components, {note}."
    return Dots(title, note, tuple(classes), alt)


def confusion_chart(title: str, counts: np.ndarray, names: list[str]) -> Confusion:
    """A confusion matrix (K, K), rows = truth, as shares of each row.

    Above `MAX_CLASSES` classes only those with the most mistakes are drawn.
    """
    counts = counts.astype(np.float64)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    total = len(counts)
    errors = wrong.sum(axis=0) + wrong.sum(axis=1)
    shown = np.sort(np.argsort(-errors, kind="stable")[:MAX_CLASSES])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = (WIDTH - 60) / len(shown)
    squares = [
        Square(60 + c * side, r * side, side, share, f"{100 * share:.0f}" if share >= 0.005 else "")
        for r, i in enumerate(shown)
        for c, share in enumerate(round(float(shares[i, j]), 3) for j in shown)
    ]
    ticks = [Tick((r + 0.5) * side, class_name(int(i), names)) for r, i in enumerate(shown)]
    pairs = [divmod(int(flat), total) for flat in np.argsort(-wrong, axis=None, kind="stable")[:5]]
    confused = [
        f"{class_name(i, names)} taken for {class_name(j, names)}: {wrong[i, j]:.0f} times"
        for i, j in pairs
        if wrong[i, j] > 0
    ]
    right = 100 * float(np.trace(counts)) / max(float(counts.sum()), 1)
    alt = f"{title}: {right:.1f} % on the diagonal. {'; '.join(confused[:3])}."
    note = "" if len(shown) == total else f"the {len(shown)} of {total} classes most often confused"
    return Confusion(title, tuple(squares), tuple(ticks), tuple(confused), note, alt)


def class_name(label: int, names: Sequence[str]) -> str:
    """The name of a class, or its number where there is none."""
    if label < 0:
        return "unlabelled"
    return str(names[label]) if label < len(names) else f"class {label}"
