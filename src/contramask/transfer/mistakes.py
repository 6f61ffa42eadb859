"""Where a detector was wrong: objects it invented and objects it missed, as crops to look at."""

from typing import Any

import cv2
import numpy as np
import pandas as pd

from contramask.data.store import StoreSplit

#: A detection finds an object of its class from this overlap on.
OVERLAP = 0.5
#: Side of a crop in pixels, how much wider than its box it is, and the least a box counts as.
SIDE, CONTEXT, SHORTEST = 64, 1.6, 4.0
COLUMNS = ["kind", "image", "category", "score", "x0", "y0", "x1", "y1"]


def detection_mistakes(
    found: list[dict[str, Any]], split: StoreSplit, rows: np.ndarray, count: int
) -> pd.DataFrame:
    """The `count` surest invented objects and the `count` largest missed ones.

    found: COCO results whose image_id is a row of the split; rows: the images that were looked at.
    `kind` is `invented` or `missed`; `score` is NaN for missed ones. An object counts as found when
    any detection of its class overlaps it by half and no surer one took it.
    """
    by_image: dict[int, list[dict[str, Any]]] = {int(row): [] for row in rows}
    for result in found:
        by_image[result["image_id"]].append(result)
    invented, missed = [], []
    for row, results in by_image.items():
        wrong, left = _one_image(row, results, split)
        invented += wrong
        missed += left
    sure = pd.DataFrame(invented, columns=COLUMNS).sort_values("score", ascending=False)
    lost = pd.DataFrame(missed, columns=COLUMNS)
    area = (lost["x1"] - lost["x0"]) * (lost["y1"] - lost["y0"])
    lost = lost.loc[area.sort_values(ascending=False, kind="stable").index]
    parts = [part.head(count) for part in (sure, lost) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def _one_image(
    row: int, results: list[dict[str, Any]], split: StoreSplit
) -> tuple[list[list[Any]], list[list[Any]]]:
    objects = split.instances_of(row)
    truth = [(category, np.array(box), crowd) for category, box, _, crowd in objects]
    taken: set[int] = set()
    invented = []
    for result in sorted(results, key=lambda one: -one["score"]):
        x, y, width, height = result["bbox"]
        box = np.array([x, y, x + width, y + height])
        overlaps = [
            _overlap(box, other) if category == result["category_id"] else 0.0
            for category, other, _ in truth
        ]
        hits = [i for i, overlap in enumerate(overlaps) if overlap >= OVERLAP]
        free = [i for i in hits if i not in taken]
        if free:
            taken.add(max(free, key=overlaps.__getitem__))
        elif not any(truth[i][2] for i in hits):  # what lies in a crowd is neither right nor wrong
            invented.append(["invented", row, result["category_id"], result["score"], *box])
    missed = [
        ["missed", row, category, float("nan"), *box]
        for i, (category, box, crowd) in enumerate(truth)
        if i not in taken and not crowd
    ]
    return invented, missed


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    total = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - shared
    return shared / total if total > 0 else 0.0


def crops(mistakes: pd.DataFrame, split: StoreSplit) -> np.ndarray:
    """Each mistake's box in its surroundings, uint8 (n, SIDE, SIDE, C); outside is black."""
    pictures = [
        _crop(split.__getitems__(np.array([int(line["image"])]))[0], line)
        for line in mistakes.to_dict("records")
    ]
    empty = np.zeros((0, SIDE, SIDE, split.images.shape[3]), np.uint8)
    return np.stack(pictures) if pictures else empty


def _crop(image: np.ndarray, line: dict[str, Any]) -> np.ndarray:
    """A square around the box, resized; channels stay where OpenCV would drop a single one."""
    side = max(line["x1"] - line["x0"], line["y1"] - line["y0"], SHORTEST) * CONTEXT
    scale = SIDE / side
    left, top = (line["x0"] + line["x1"] - side) / 2, (line["y0"] + line["y1"] - side) / 2
    move = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]], dtype=np.float64)
    flags = cv2.INTER_LINEAR if scale >= 1 else cv2.INTER_AREA
    planes = [
        cv2.warpAffine(np.ascontiguousarray(image[..., c]), move, (SIDE, SIDE), flags=flags)
        for c in range(image.shape[2])
    ]
    return np.stack(planes, axis=-1)
