"""How good boxes are: against ground truth, against boxes that know nothing, and as crops.

Ground truth serves evaluation only. All shares are fractions (0 to 1), boxes are normalised and
half-open. Baselines every set must beat: the whole image, the centre half, the data's mean true
box, and its own boxes shuffled over the images, which keeps all statistics and removes the content.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass as config_class

from contramask.boxes.rules import CORNERS, WHOLE
from contramask.data.config import ScaleRange
from contramask.data.crops import (
    RATIO,
    SCALE,
    Range,
    contrastive_crop,
    full_boxes,
    random_resized_crop,
)
from contramask.data.views import ViewConfig
from contramask.draws import image_keys
from contramask.typed import STRICT


def _ratio_range(pair: Range) -> Range:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"a ratio range is written [low, high], above 0; given was {list(pair)}")
    return pair


RatioRange = Annotated[tuple[float, float], AfterValidator(_ratio_range)]

CENTRE_HALF = np.array([0.25, 0.25, 0.75, 0.75], dtype=np.float32)

_MIN_SIDE_PX = 4  # smaller true boxes say more about the annotator than about the finder
_MISS = 0.1  # a crop that shows less of the object than this misses it
_PAIRS = 64  # crop pairs an image
_PAIR_STREAMS = (0, 4)  # of random numbers: those of a training's first and second crop
_MAX_CROPPED_IMAGES = 300  # of each group; more would not change the second digit


@config_class(frozen=True, config=STRICT)
class CropConfig:
    """The crops a box set is judged for: those of the pre-training that will use it."""

    scale: ScaleRange = SCALE  # share of the image's area
    ratio: RatioRange = RATIO  # width / height
    alpha: float = Field(default=0.6, ge=0.05, le=2)  # of the Beta over the box; 1 = uniform

    @classmethod
    def of(cls, views: ViewConfig) -> "CropConfig":
        """The crops of a pre-training with these views."""
        return cls(views.crop_scale, views.crop_ratio, views.box_alpha)


@dataclass(frozen=True)
class GroundTruth:
    """All usable true boxes, largest first within an image; `first` is each image's largest."""

    image: np.ndarray  # (M,) int64, row number in the split, ascending
    boxes: np.ndarray  # (M, 4) float32
    first: np.ndarray  # (P,) rows of the two above, one an image

    @property
    def main(self) -> np.ndarray:
        """The largest true box of each annotated image, (P, 4)."""
        found: np.ndarray = self.boxes[self.first]
        return found

    @property
    def images(self) -> np.ndarray:
        """The annotated images' row numbers, (P,)."""
        found: np.ndarray = self.image[self.first]
        return found

    def among(self, rows: np.ndarray) -> "GroundTruth":
        """The true boxes of these images (R,), ascending, which are numbered anew from 0."""
        kept = np.isin(self.image, rows)
        image = np.searchsorted(rows, self.image[kept])
        return GroundTruth(image, self.boxes[kept], np.unique(image, return_index=True)[1])


def ground_truth(instances: pd.DataFrame, size: tuple[int, int]) -> GroundTruth:
    """The true boxes of a store's `instances` table (pixels of `size` = (rows, cols)).

    Crowds, boxes under 4 px and boxes of the whole image are left out: no finder can gain there.
    """
    rows, cols = size
    sides = (instances["x1"] - instances["x0"], instances["y1"] - instances["y0"])
    tiny = np.minimum(*sides) < _MIN_SIDE_PX
    whole = (sides[0] >= cols) & (sides[1] >= rows)
    table = instances[~instances["iscrowd"].astype(bool) & ~tiny & ~whole]
    area = (table["x1"] - table["x0"]) * (table["y1"] - table["y0"])
    table = table.assign(area=area).sort_values(
        ["image", "area"], ascending=[True, False], kind="stable"
    )
    image = table["image"].to_numpy(dtype=np.int64)
    boxes = table[CORNERS].to_numpy(dtype=np.float32) / np.array([cols, rows] * 2, np.float32)
    return GroundTruth(image, boxes, np.unique(image, return_index=True)[1])


def overlap(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Shared area of boxes (..., 4), pair by pair."""
    low, high = np.maximum(one[..., :2], two[..., :2]), np.minimum(one[..., 2:], two[..., 2:])
    shared: np.ndarray = np.clip(high - low, 0, None).prod(axis=-1)
    return shared


def areas(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes (..., 4) as a share of the image."""
    found: np.ndarray = (boxes[..., 2:] - boxes[..., :2]).prod(axis=-1)
    return found


def box_scores(boxes: np.ndarray, truth: GroundTruth) -> pd.DataFrame:
    """One row an annotated image for boxes (N, 4): iou, coverage, tightness, centre_in_box, area.

    Each box is held against the true box of its image with the highest IoU (ties: the largest).
    """
    own = boxes[truth.image]
    shared, area, true_area = overlap(own, truth.boxes), areas(own), areas(truth.boxes)
    centre = (truth.boxes[:, :2] + truth.boxes[:, 2:]) / 2
    inside = ((centre >= own[:, :2]) & (centre < own[:, 2:])).all(axis=1)
    scores = pd.DataFrame(
        {
            "image": truth.image,
            "iou": shared / (area + true_area - shared),
            "coverage": shared / true_area,
            "tightness": shared / area,
            "centre_in_box": inside.astype(np.float64),
            "area": area,
        }
    )
    best = scores.sort_values(["image", "iou"], ascending=[True, False], kind="stable")
    return best.drop_duplicates("image", ignore_index=True)


def summary(scores: pd.DataFrame) -> dict[str, float]:
    """Means over images; `corloc`: share with IoU >= 0.5, `max_box_acc`: mean at 0.3, 0.5, 0.7."""
    iou = scores["iou"]
    hits = {at: float((iou >= at).mean()) for at in (0.3, 0.5, 0.7)}
    means = scores[["coverage", "tightness", "centre_in_box", "area"]].mean()
    return {
        "images": len(scores),
        "iou": float(iou.mean()),
        "iou_median": float(iou.median()),
        "corloc": hits[0.5],
        "max_box_acc": sum(hits.values()) / 3,
        **{str(name): float(value) for name, value in means.items()},
    }


def size_groups(truth: GroundTruth) -> pd.Series:
    """Each annotated image's object size: small (area < 0.1), middle (to 0.4) or large."""
    area = areas(truth.main)
    return pd.Series(np.select([area < 0.1, area <= 0.4], ["small", "middle"], "large"))


def offset_groups(truth: GroundTruth) -> pd.Series:
    """Each annotated image's third by the distance of its object from the image's centre."""
    centre = (truth.main[:, :2] + truth.main[:, 2:]) / 2
    rank = np.linalg.norm(centre - 0.5, axis=1).argsort(kind="stable").argsort(kind="stable")
    third = rank * 3 // max(len(rank), 1)
    return pd.Series(np.select([third == 0, third == 1], ["centred", "between"], "off_centre"))


def shuffled(boxes: np.ndarray) -> np.ndarray:
    """The same boxes dealt to other images, always in the same way."""
    dealt: np.ndarray = boxes[np.random.default_rng(0).permutation(len(boxes))]
    return dealt


def compare_boxes(boxes: np.ndarray, truth: GroundTruth) -> dict[str, Any]:
    """`summary` of these boxes (N, 4) and of every baseline, and of these boxes by group."""
    count = len(boxes)
    every = {
        "found": boxes,
        "shuffled": shuffled(boxes),
        "full": np.tile(WHOLE, (count, 1)),
        "center_half": np.tile(CENTRE_HALF, (count, 1)),
        "mean_box": np.tile(truth.main.mean(axis=0), (count, 1)),
    }
    found = box_scores(boxes, truth)
    groups = {"by_size": size_groups(truth), "by_offset": offset_groups(truth)}
    return {
        "boxes": {name: summary(box_scores(each, truth)) for name, each in every.items()},
        **{
            by: {name: summary(found[group == name]) for name in sorted(set(group))}
            for by, group in groups.items()
        },
    }


def crop_pairs(
    boxes: np.ndarray, rows: np.ndarray, size: tuple[int, int], crop: CropConfig
) -> np.ndarray:
    """Two crops (N, 2, 4) a training might cut around each box (N, 4), for pictures.

    All are shares of the sides; `rows` (N,) are the images' numbers, `size` their (rows, columns).
    """
    keys = image_keys(0, 0, torch.from_numpy(rows))
    around = torch.from_numpy(boxes)
    drawn = [
        contrastive_crop(keys, stream, size, around, crop.scale, crop.ratio, crop.alpha)
        for stream in _PAIR_STREAMS
    ]
    return torch.stack(drawn, dim=1).numpy().astype(np.float32)


def compare_crops(
    boxes: np.ndarray, truth: GroundTruth, size: tuple[int, int], crop: CropConfig
) -> dict[str, dict[str, dict[str, float]]]:
    """What training would see under four policies, for all images and for the off-centre third.

    `plain` is RandomResizedCrop; `found`, `shuffled` and `full` are contrastive crops around these
    boxes (N, 4), around other images' boxes, and around the whole image (suppression alone).
    """
    groups = {
        "all": np.arange(len(truth.first)),
        "off_centre": np.flatnonzero(offset_groups(truth) == "off_centre"),
    }
    dealt = shuffled(boxes)
    result = {}
    for name, rows in groups.items():
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MAX_CROPPED_IMAGES)).astype(int)]
        image, target = truth.images[rows], truth.main[rows]
        around = {
            "plain": None,
            "found": boxes[image],
            "shuffled": dealt[image],
            "full": full_boxes(len(image)).numpy(),
        }
        result[name] = {
            policy: _crop_scores(image, each, target, size, crop) for policy, each in around.items()
        }
    return result


def _crop_scores(
    image: np.ndarray,
    boxes: np.ndarray | None,
    target: np.ndarray,
    size: tuple[int, int],
    crop: CropConfig,
) -> dict[str, float]:
    """Means over 64 fixed crop pairs an image: object coverage and share, misses, pair IoU."""
    pair = [_crops(image, view, boxes, size, crop) for view in (0, 1)]  # 2 x (P, 64, 4)
    seen = np.stack([overlap(view, target[:, None]) for view in pair])  # (2, P, 64)
    area = np.stack([areas(view) for view in pair])
    coverage = seen / areas(target)[:, None]
    shared = overlap(*pair)
    return {
        "coverage": float(coverage.mean()),
        "object_share": float((seen / area).mean()),
        "miss": float((coverage < _MISS).mean()),
        "pair_miss": float((coverage < _MISS).any(axis=0).mean()),
        "pair_iou": float((shared / (area.sum(axis=0) - shared)).mean()),
    }


def _crops(
    image: np.ndarray,
    view: int,
    boxes: np.ndarray | None,
    size: tuple[int, int],
    crop: CropConfig,
) -> np.ndarray:
    draws = torch.from_numpy(image)[:, None] * _PAIRS + torch.arange(_PAIRS)
    keys = image_keys(0, 0, draws.flatten())
    if boxes is None:
        found = random_resized_crop(keys, view, size, crop.scale, crop.ratio)
    else:
        own = torch.from_numpy(boxes).repeat_interleave(_PAIRS, dim=0)
        found = contrastive_crop(keys, view, size, own, crop.scale, crop.ratio, crop.alpha)
    return found.numpy().reshape(len(image), _PAIRS, 4)
