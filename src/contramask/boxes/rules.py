"""From heat maps to boxes: smooth, threshold, pick a component, close it with a rectangle."""

from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy import ndimage

from contramask.boxes.heatmaps import box_maps, stretch
from contramask.data.crops import RATIO, SCALE, Range, random_resized_crop
from contramask.draws import image_keys
from contramask.typed import STRICT

#: Why an image got the whole-image box instead of a found one; empty when it did not.
FallbackReason: TypeAlias = Literal["", "constant_map", "empty_mask", "too_small", "too_large"]

CORNERS = ["x0", "y0", "x1", "y1"]
WHOLE = np.array([0, 0, 1, 1], dtype=np.float32)

_BINDS_DRAWS = 256
_TAIL = 0.05  # of the heat, outside a box by `mass` on either side
# 4-connected inside an image, not connected between images.
_NEIGHBOURS = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))])


@dataclass(frozen=True, config=STRICT)
class RuleConfig:
    """How a heat map becomes a box. The defaults suit dense maps, such as a ViT's.

    ContrastiveCrop's own rule, made for sparse maps of a ReLU network, is `REFERENCE_RULE`.
    """

    smooth_sigma: float = Field(default=1.0, ge=0, le=8)  # cells of the map
    threshold: float = Field(default=0.5, ge=0, lt=1)  # of the stretched map; k in the paper
    #: Which 4-connected component above the threshold: the largest, the one of the hottest cell, or
    #: all. `mass` uses neither: it takes the middle 90% of what lies above the median, each axis by
    #: itself.
    component: Literal["largest", "peak", "all", "mass"] = "largest"
    min_area: float = Field(default=0.05, ge=0, le=1)  # of the image; below it: whole image
    max_area: float = Field(default=0.95, gt=0, le=1)  # above it: whole image


#: Strictly above 0.1, closure of all hot cells, whatever its area (ContrastiveCrop, eq. 2).
REFERENCE_RULE = RuleConfig(
    smooth_sigma=0.0, threshold=0.1, component="all", min_area=0.0, max_area=1.0
)


def find_boxes(maps: np.ndarray, rule: RuleConfig) -> pd.DataFrame:
    """One row an image from stretched maps (N, g, g): box, score, reason of a fallback, evidence.

    Columns: x0, y0, x1, y1 (normalised, half-open), score, is_fallback, fallback_reason, box_area,
    heat_peak_ratio, heat_entropy, n_components. Every image gets a row: where the map is constant,
    or the box smaller or larger than the rule allows, it is the whole image and says why.
    """
    sigma = (0.0, rule.smooth_sigma, rule.smooth_sigma)
    smooth = stretch(ndimage.gaussian_filter(maps, sigma)) if rule.smooth_sigma else maps
    hot: np.ndarray = smooth > rule.threshold  # strictly, as in eq. 2 of the paper
    labels, count = ndimage.label(hot, structure=_NEIGHBOURS)
    chosen = _CHOICES[rule.component](labels, smooth)
    boxes = enclosing_boxes(chosen)
    area = _area(boxes)
    reason = np.full(len(maps), "", dtype=object)
    reason[area > rule.max_area] = "too_large"
    reason[area < rule.min_area] = "too_small"
    reason[~chosen.any(axis=(1, 2))] = "empty_mask"
    reason[maps.max(axis=(1, 2)) <= maps.min(axis=(1, 2))] = "constant_map"
    boxes[reason != ""] = WHOLE
    table = box_table(boxes, maps, reason)
    return table.assign(n_components=_components(labels, count).astype(np.int32))


def box_table(boxes: np.ndarray, maps: np.ndarray, reason: np.ndarray) -> pd.DataFrame:
    """The columns of `find_boxes` for boxes (N, 4) found by whatever means, one component each."""
    area = _area(boxes)
    is_fallback = reason != ""
    total = maps.sum(axis=(1, 2), dtype=np.float64)
    cells = maps[0].size
    inside = (maps * box_maps(boxes, maps.shape[1])).sum(axis=(1, 2), dtype=np.float64)
    mass = np.divide(inside, total, out=np.ones_like(total), where=total > 0)
    score = np.clip((mass - area) / np.maximum(1 - area, 1e-6), 0, 1)
    share = maps / np.maximum(total, 1e-12)[:, None, None]
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(axis=(1, 2)) / np.log(max(cells, 2))
    peak = maps.max(axis=(1, 2)) * cells / np.maximum(total, 1e-12)
    evidence = {
        "score": np.where(is_fallback | (area >= 1), 0, score),
        "box_area": area,
        "heat_peak_ratio": np.where(total > 0, peak, 1),  # a map of nothing is an even map
        "heat_entropy": np.where(total > 0, entropy, 1),
    }
    table = pd.DataFrame(boxes, columns=CORNERS).assign(**evidence).astype(np.float32)
    table.insert(5, "is_fallback", is_fallback)
    table.insert(6, "fallback_reason", pd.Series(reason, dtype="str"))
    return table.assign(n_components=np.int32(1))


def enclosing_boxes(chosen: np.ndarray) -> np.ndarray:
    """The smallest box around the True cells of (N, g, g), (N, 4); the whole map where none is.

    Half-open: a box that ends with the last cell ends at 1.0 (the reference: one cell earlier).
    """
    rows, cols = chosen.shape[1:]
    down = np.asarray(chosen.any(axis=2))  # (N, g): rows with a chosen cell
    across = np.asarray(chosen.any(axis=1))
    return np.stack(
        [
            across.argmax(axis=1) / cols,
            down.argmax(axis=1) / rows,
            1 - across[:, ::-1].argmax(axis=1) / cols,
            1 - down[:, ::-1].argmax(axis=1) / rows,
        ],
        axis=1,
    ).astype(np.float32)


def binding_share(
    boxes: np.ndarray, size: tuple[int, int], scale: Range = SCALE, ratio: Range = RATIO
) -> np.ndarray:
    """How often each box (N, 4) restricts where a crop may lie, (N,) float32; 0 = no effect.

    The top edge does when y0 > h / 2 with h the crop's height (of the image's), and so on for the
    others; over 256 fixed draws of the crop size.
    """
    keys = image_keys(0, 0, torch.arange(_BINDS_DRAWS))
    crop = random_resized_crop(keys, 0, size, scale, ratio).numpy()
    # Of two opposite edges the one further inside binds first, so one margin an axis is enough.
    margin = np.stack([np.maximum(boxes[:, k], 1 - boxes[:, k + 2]) for k in (0, 1)], axis=1)
    half = (crop[:, 2:] - crop[:, :2]) / 2  # (256, 2)
    found = [
        (part[:, None, :] > half).any(axis=2).mean(axis=1)
        for part in np.array_split(margin, len(margin) // 4096 + 1)
    ]
    return np.concatenate(found).astype(np.float32)


def _area(boxes: np.ndarray) -> np.ndarray:
    area: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


def _all(labels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The cells of every component."""
    chosen: np.ndarray = labels > 0
    return chosen


def _peak(labels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The cells of the component that holds each image's hottest cell, the first of equal ones."""
    best = heat.reshape(len(heat), -1).argmax(axis=1)
    return _of_cell(labels, best)


def _mass(labels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Rows times columns from the 5% to the 95% quantile of the heat above the median."""
    above = np.clip(heat - np.median(heat, axis=(1, 2), keepdims=True), 0, None)
    held = [_middle(above.sum(axis=axis, dtype=np.float64)) for axis in (2, 1)]
    chosen: np.ndarray = held[0][:, :, None] & held[1][:, None, :]
    return chosen


def _middle(heat: np.ndarray) -> np.ndarray:
    """The cells of (N, g) between the two quantiles of its sum, both included; none of nothing."""
    total = heat.sum(axis=1, keepdims=True)
    share = np.cumsum(heat, axis=1) / np.maximum(total, 1e-12)
    before = np.concatenate([np.zeros_like(total), share[:, :-1]], axis=1)
    held: np.ndarray = (share > _TAIL) & (before < 1 - _TAIL) & (total > 0)
    return held


def _largest(labels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The cells of each image's largest component; of equally large ones the hottest."""
    count = int(labels.max(initial=0))
    flat = labels.ravel()
    cells = np.bincount(flat, minlength=count + 1)
    mass = np.bincount(flat, weights=heat.ravel(), minlength=count + 1)
    rank = cells + mass / (heat[0].size + 1)  # heat is at most 1 a cell, so mass only breaks ties
    rank[0] = 0
    return _of_cell(labels, rank[labels].reshape(len(labels), -1).argmax(axis=1))


def _of_cell(labels: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The cells of the component that holds the numbered cell (N,) of each image, if any does."""
    label = labels.reshape(len(labels), -1)[np.arange(len(labels)), cell]
    chosen: np.ndarray = (labels == label[:, None, None]) & (labels > 0)
    return chosen


def _components(labels: np.ndarray, count: int) -> np.ndarray:
    """How many components each image has, (N,)."""
    owner = np.zeros(count + 1, dtype=np.int64)
    images = np.broadcast_to(np.arange(len(labels))[:, None, None], labels.shape)
    owner[labels] = images  # all cells of a label lie in one image
    return np.bincount(owner[1:], minlength=len(labels))


_CHOICES = {"largest": _largest, "peak": _peak, "all": _all, "mass": _mass}
