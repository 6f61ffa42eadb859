"""Objects on their way into a detector (store to targets) and out of it (detections to results)."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from contramask.data.store import StoreSplit
from contramask.models.regions import paste_masks
from contramask.transfer.metrics import encode_masks

#: Pixels of full-size masks drawn at once.
DRAWN_PX = 2**23
BOX_COLUMNS = ["image", "category", "score", "x0", "y0", "x1", "y1", "rle"]


def objects_of(split: StoreSplit, row: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """One image's objects enlarged to `size` (rows, columns), for training.

    boxes (N, 4) px float32, labels from 1 (N,) int64 and, where the store has masks, masks
    (N, rows, columns) uint8. Crowds and boxes without area are left out.
    """
    scale = torch.tensor([size[1] / split.width, size[0] / split.height] * 2)
    objects = [
        (category, box, mask)
        for category, box, mask, iscrowd in split.instances_of(row)
        if not iscrowd and box[2] > box[0] and box[3] > box[1]
    ]
    boxes = torch.tensor([box for _, box, _ in objects]).reshape(-1, 4) * scale
    labels = torch.tensor([category + 1 for category, _, _ in objects], dtype=torch.int64)
    target = {"boxes": boxes, "labels": labels}
    if not split.manifest["instance_masks"]:
        return target
    masks = torch.zeros(len(objects), *size, dtype=torch.uint8)
    if objects:
        stored = torch.from_numpy(np.stack([mask for _, _, mask in objects]))
        enlarged = F.interpolate(stored[:, None].to(torch.uint8), size, mode="nearest-exact")
        masks = enlarged[:, 0]
    return {**target, "masks": masks}


def results_of(
    row: int, found: dict[str, Tensor], split: StoreSplit, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """One image's detections as COCO results: boxes and masks scaled back to the store's size."""
    scale = torch.tensor([split.width / size[1], split.height / size[0]] * 2)
    boxes = found["boxes"].float().cpu()
    x0, y0, x1, y1 = (boxes.double() * scale).unbind(1)  # x0 + width must stay inside the image
    corners = torch.stack([x0, y0, x1 - x0, y1 - y0], dim=1).tolist()
    labels, scores = (found["labels"] - 1).tolist(), found["scores"].tolist()
    results: list[dict[str, Any]] = [
        {"image_id": row, "category_id": label, "score": score, "bbox": box}
        for label, score, box in zip(labels, scores, corners, strict=True)
    ]
    if "masks" in found and results:
        shape = (split.height, split.width)
        # torchvision cuts its mask targets without aligned corners, half a pixel up and left.
        coded = _coded(found["masks"][:, 0].cpu(), (boxes + 0.5) * scale, shape)
        for result, counts in zip(results, coded, strict=True):
            result["segmentation"] = {"size": list(shape), "counts": counts}
    return results


def _coded(probabilities: Tensor, boxes: Tensor, shape: tuple[int, int]) -> list[str]:
    """Run lengths of masks (N, m, m) drawn into boxes; few are drawn at once, for each is large."""
    count = max(1, DRAWN_PX // (shape[0] * shape[1]))
    parts = zip(torch.split(probabilities, count), torch.split(boxes, count), strict=True)
    return [text for part in parts for text in encode_masks(paste_masks(*part, shape).numpy())]


def pictured_boxes(found: list[dict[str, Any]], rows: np.ndarray) -> pd.DataFrame:
    """The detections in the pictured images; `image` counts these pictures from 0."""
    place = {int(row): number for number, row in enumerate(rows)}
    lines = []
    for result in found:
        if result["image_id"] in place:
            x, y, width, height = result["bbox"]
            rle = result.get("segmentation", {"counts": ""})["counts"]
            head = [place[result["image_id"]], result["category_id"], result["score"]]
            lines.append([*head, x, y, x + width, y + height, rle])
    return pd.DataFrame(lines, columns=BOX_COLUMNS)
