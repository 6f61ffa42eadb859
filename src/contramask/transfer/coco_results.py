"""A detector's results against a store's objects: COCO's numbers, overall and by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from contramask.data.store import StoreSplit
from contramask.transfer.metrics import coco_scores, coco_truth

#: The numbers that are read first.
MAIN = ("ap", "ap50", "ap75")


@dataclass(frozen=True)
class CocoResults:
    """COCO's numbers of boxes and masks, and the annotations they were measured against.

    scores: percent by name (`box_ap`, ..., `mask_arl`), without what no object could tell;
    by_class: class, objects, box_ap and, with masks, mask_ap, NaN for a class without objects.
    """

    scores: dict[str, float]
    by_class: pd.DataFrame
    truth: dict[str, Any]

    @property
    def main(self) -> dict[str, float]:
        """The scores that are read first."""
        return {k: v for k, v in self.scores.items() if k.partition("_")[2] in MAIN}


def score(
    split: StoreSplit,
    rows: np.ndarray,
    classes: Sequence[str],
    found: list[dict[str, Any]],
    with_masks: bool,
) -> CocoResults:
    """Measure COCO results `found`, whose image_id is a row of the split, on the images `rows`."""
    if split.instances is None:
        raise ValueError("the store's val split has no table of objects")
    shape = (split.height, split.width)
    truth = coco_truth(split.instances, rows.tolist(), shape, classes)
    for image in truth["images"]:
        image["file_name"] = str(split.ids[image["id"]])
    owner = pd.Series([a["category_id"] for a in truth["annotations"]], dtype="int64")
    counts = owner.value_counts().reindex(range(len(classes)), fill_value=0)
    table = pd.DataFrame({"class": list(classes), "objects": counts.to_numpy()})
    scores: dict[str, float] = {}
    kinds: dict[str, Literal["bbox", "segm"]] = {"box": "bbox"}
    if with_masks:
        kinds["mask"] = "segm"
    for name, kind in kinds.items():
        result = coco_scores(truth, found, kind)
        scores |= {f"{name}_{k}": v for k, v in result.overall.items() if v >= 0}
        values = np.array(result.by_class, dtype=np.float64)
        table[f"{name}_ap"] = np.where(values >= 0, values, np.nan)
    return CocoResults(scores, table, truth)
