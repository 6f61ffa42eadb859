"""The store's table of objects: boxes and run-length coded masks, one row an instance."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from faster_coco_eval.core import mask as coco_mask

from contramask.data.record import Instance

#: `image` is the row in the split; boxes are store pixels, half-open; `rle` is COCO's compressed
#: counts (column by column), empty where the source gave a box only.
DTYPES = {
    "image": "int64",
    "category": "int64",
    "x0": "float32",
    "y0": "float32",
    "x1": "float32",
    "y1": "float32",
    "area": "float32",
    "iscrowd": "bool",
    "rle": "object",
}


def instance_row(image: int, instance: Instance) -> dict[str, Any]:
    """One row of the table; `area` is the mask's pixels, or the box's where there is no mask."""
    x0, y0, x1, y1 = instance.box
    area, rle = (x1 - x0) * (y1 - y0), ""
    if instance.mask is not None:
        area = float(np.count_nonzero(instance.mask))
        coded = coco_mask.encode(np.asfortranarray(instance.mask, dtype=np.uint8))
        rle = coded["counts"].decode("ascii")
    corners = {"x0": x0, "y0": y0, "x1": x1, "y1": y1}
    crowd = bool(instance.iscrowd)
    row = {"image": image, "category": instance.category, **corners}
    return {**row, "area": area, "iscrowd": crowd, "rle": rle}


def instance_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The rows as a frame with fixed columns and dtypes, also when there are none."""
    return pd.DataFrame(list(rows), columns=list(DTYPES)).astype(DTYPES)


def instance_mask(row: Any, height: int, width: int) -> np.ndarray:
    """The mask bool (H, W) of one table row; the filled box where the source gave a box only."""
    if row.rle:
        code = {"size": [height, width], "counts": row.rle.encode("ascii")}
        return np.asarray(coco_mask.decode(code), dtype=bool)
    mask = np.zeros((height, width), dtype=bool)
    top, left = int(np.floor(row.y0)), int(np.floor(row.x0))
    mask[top : int(np.ceil(row.y1)), left : int(np.ceil(row.x1))] = True
    return mask
