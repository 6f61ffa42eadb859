"""Whether a box set may be trained with: an alarm against boxes that silently do nothing.

The failure this guards against is real: on a ViT the published rule gave boxes of the whole image,
and a training with them is plain random cropping under another name.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from contramask.typed import STRICT

_LARGE = 0.9  # share of the image above which a box is as good as none


@dataclass(frozen=True, config=STRICT)
class GateConfig:
    """Above which shares (0 to 1) a box set is refused, and beyond which it gets a warning."""

    max_fallback: float = Field(default=0.5, ge=0, le=1)  # images that got the whole image; refused
    max_large: float = Field(default=0.9, ge=0, le=1)  # images with box area >= 0.9; refused
    warn_fallback: float = Field(default=0.2, ge=0, le=1)
    warn_large: float = Field(default=0.3, ge=0, le=1)
    min_median_area: float = Field(default=0.1, ge=0, le=1)
    max_median_area: float = Field(default=0.8, ge=0, le=1)
    min_coverage: float = Field(default=0.85, ge=0, le=1)  # from here on: needs ground truth
    min_corloc_gain: float = Field(default=0.05, ge=-1, le=1)  # over the same boxes shuffled
    min_miss_reduction: float = Field(default=0.25, ge=-1, le=1)  # off-centre, to plain crops


def statistics(table: pd.DataFrame) -> dict[str, Any]:
    """What a box table says about itself, shares in [0, 1]; needs no ground truth."""
    area, score = table["box_area"].to_numpy(), table["score"].to_numpy()
    reasons = table.loc[table["is_fallback"], "fallback_reason"].value_counts()
    at = (0.05, 0.25, 0.5, 0.75, 0.95)
    return {
        "fallback_share": float(table["is_fallback"].mean()),
        "fallback_reasons": {str(name): int(reasons[name]) for name in sorted(reasons.index)},
        "large_share": float((area >= _LARGE).mean()),
        "area_mean": float(area.mean()),
        "area_quantiles": {str(q): float(np.quantile(area, q)) for q in at},
        "score_quantiles": {str(q): float(np.quantile(score, q)) for q in at},
        "binds_mean": float(table["binds"].mean()),
        "binds_share": float((table["binds"] > 0).mean()),
    }


def alarms(stats: Mapping[str, Any], gates: GateConfig) -> list[str]:
    """Why boxes with these `statistics` must not be trained with; empty when they may."""
    advice = (
        "try another crop_boxes.method (`contramask boxes compare` ranks them where there are true"
        " boxes), lower crop_boxes.rule.threshold when boxes are too small or raise it when they"
        " are too large, or choose crop_boxes.method full and save the computation"
    )
    found = []
    if stats["fallback_share"] > gates.max_fallback:
        why = ", ".join(f"{name} {count}" for name, count in stats["fallback_reasons"].items())
        found.append(
            f"{stats['fallback_share']:.0%} of the images got the whole image as their box ({why}),"
            f" more than {gates.max_fallback:.0%}: crops would hardly follow the object; {advice}"
        )
    if stats["large_share"] > gates.max_large:
        found.append(
            f"{stats['large_share']:.0%} of the boxes cover 90% of their image or more, above"
            f" {gates.max_large:.0%}: such boxes change no crop; {advice}"
        )
    return found


def warnings(
    stats: Mapping[str, Any], quality: Mapping[str, Any] | None, gates: GateConfig
) -> list[str]:
    """What is worth knowing before training with these boxes; `quality` as `measure` gives it."""
    median = stats["area_quantiles"]["0.5"]
    found = []
    if stats["fallback_share"] > gates.warn_fallback:
        found.append(f"{stats['fallback_share']:.0%} of the images got the whole image as box")
    if stats["large_share"] > gates.warn_large:
        found.append(f"{stats['large_share']:.0%} of the boxes cover 90% of their image or more")
    if not gates.min_median_area <= median <= gates.max_median_area:
        found.append(
            f"the median box covers {median:.0%} of its image, outside"
            f" {gates.min_median_area:.0%} to {gates.max_median_area:.0%}"
        )
    return found if quality is None else found + _truth_warnings(quality, gates)


def _truth_warnings(quality: Mapping[str, Any], gates: GateConfig) -> list[str]:
    boxes, crops = quality["boxes"], quality["crops"]["off_centre"]
    own, dealt = boxes["found"], boxes["shuffled"]
    plain, around = crops["plain"]["pair_miss"], crops["found"]["pair_miss"]
    better = [name for name in boxes if name != "found" and boxes[name]["iou"] >= own["iou"]]
    found = []
    if better:
        others = ", ".join(f"{name} {boxes[name]['iou']:.2f}" for name in better)
        found.append(
            f"the boxes overlap the true object no better (mean IoU {own['iou']:.2f}) than boxes"
            f" that know nothing about the image: {others}"
        )
    if own["coverage"] < gates.min_coverage:
        found.append(
            f"boxes hold {own['coverage']:.0%} of the true object on average,"
            f" less than {gates.min_coverage:.0%}"
        )
    if own["corloc"] < dealt["corloc"] + gates.min_corloc_gain:
        found.append(
            f"{own['corloc']:.0%} of the boxes hit the true object (IoU 0.5), and"
            f" {dealt['corloc']:.0%} still do when dealt to other images: they know little of what"
            f" is in their image"
        )
    if around > plain * (1 - gates.min_miss_reduction):
        found.append(
            f"of objects off the centre {around:.0%} of the crop pairs miss one, with plain random"
            f" crops {plain:.0%}: these boxes are harmless but help little"
        )
    return found
