"""Metrics of the dense tasks: one confusion matrix, and COCO's average precision."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle_codec
from torch import Tensor

log = logging.getLogger(__name__)

#: The semantic value that is neither learnt nor counted.
IGNORE_INDEX = 255

#: What COCO compares with the truth: boxes or masks.
IouType = Literal["bbox", "segm"]

#: COCO's twelve numbers in COCOeval's order, under the field's names.
COCO_METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)


def confusion_matrix(
    truth: Tensor, predicted: Tensor, num_classes: int, ignore: int = IGNORE_INDEX
) -> Tensor:
    """Count pixels by (true, predicted) class: (K, K) int64, rows true.

    `truth` and `predicted` are integer tensors of one shape; pixels whose truth is `ignore` are
    left out. Raises `ValueError` when a counted value is no class.
    """
    counted = truth != ignore
    true, pred = truth[counted].to(torch.int64), predicted[counted].to(torch.int64)
    for name, values in (("truth", true), ("prediction", pred)):
        if len(values) and int(values.max()) >= num_classes:
            raise ValueError(f"the {name} holds class {int(values.max())} of only {num_classes}")
    cells = torch.bincount(true * num_classes + pred, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def confusion_with_gaps(
    truth: Tensor, predicted: Tensor, num_classes: int, ignore: int = IGNORE_INDEX
) -> Tensor:
    """As `confusion_matrix`, (K, K+1): the last column counts pixels predicted as `ignore`.

    Such a pixel is missed by its true class and claimed by none.
    """
    gap = torch.full_like(predicted, num_classes)
    closed = torch.where(predicted == ignore, gap, predicted)
    return confusion_matrix(truth, closed, num_classes + 1, ignore)[:num_classes]


def segmentation_scores(confusion: Tensor) -> dict[str, float]:
    """mIoU, mean class accuracy, pixel accuracy and frequency-weighted IoU in percent.

    `confusion` is (K, K), or (K, K+1) of `confusion_with_gaps`. Counts are pooled over the data
    set. IoU is averaged over classes that occur in truth or prediction, accuracy over classes that
    occur in truth. Without any pixel all are 0.
    """
    iou, accuracy, share = _per_class(confusion)
    total = float(confusion.sum())
    return {
        "miou": _mean_percent(iou),
        "macc": _mean_percent(accuracy),
        "aacc": 100 * float(confusion.diagonal().sum()) / total if total else 0.0,
        "fwiou": 100 * float(np.nansum(share * np.nan_to_num(iou))) if total else 0.0,
    }


def per_class_table(confusion: Tensor, names: Sequence[str]) -> pd.DataFrame:
    """One row a class: class, iou, accuracy, share of true pixels (percent); NaN where absent."""
    iou, accuracy, share = _per_class(confusion)
    columns = {"iou": 100 * iou, "accuracy": 100 * accuracy, "share": 100 * share}
    return pd.DataFrame({"class": list(names), **columns})


def _per_class(confusion: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    counts = confusion.cpu().numpy().astype(np.float64)
    hit, true, pred = counts.diagonal(), counts.sum(1), counts.sum(0)[: len(counts)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return hit / (true + pred - hit), hit / true, true / counts.sum()


def _mean_percent(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return 100 * float(present.mean()) if len(present) else 0.0


def encode_masks(masks: np.ndarray) -> list[str]:
    """Compressed COCO run lengths of bool masks (N, H, W), as text."""
    columns_first = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [_text(rle["counts"]) for rle in rle_codec.encode(columns_first)]


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def coco_truth(
    instances: pd.DataFrame, images: Sequence[int], size: tuple[int, int], classes: Sequence[str]
) -> dict[str, Any]:
    """A store's instance table as COCO annotations for the given image numbers.

    `instances` has the store's columns (image, category, x0, y0, x1, y1, area, iscrowd, rle);
    `size` is (rows, columns) in px. Images without objects stay in: what is found there is wrong.
    """
    rows, cols = size
    kept = instances[instances["image"].isin(list(images))]
    annotations = []
    for number, row in enumerate(kept.to_dict("records"), start=1):
        annotation = {
            "id": number,
            "image_id": int(row["image"]),
            "category_id": int(row["category"]),
            "bbox": [row["x0"], row["y0"], row["x1"] - row["x0"], row["y1"] - row["y0"]],
            "area": float(row["area"]),
            "iscrowd": int(row["iscrowd"]),
        }
        if row.get("rle"):
            annotation["segmentation"] = {"size": [rows, cols], "counts": row["rle"]}
        annotations.append(annotation)
    return {
        "info": {},
        "images": [{"id": int(i), "height": rows, "width": cols} for i in images],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": annotations,
    }


@dataclass(frozen=True)
class CocoScores:
    """COCO's twelve numbers as `ap` (IoU 0.50:0.95), `ap50`, ..., `arl`, and AP by class; percent.

    -1 where nothing could be measured: no object of that class or size.
    """

    overall: dict[str, float]
    by_class: list[float]


def coco_scores(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: IouType
) -> CocoScores:
    """Precision and recall of boxes or masks, at most 100 detections an image.

    `results` follow COCO's result format (image_id, category_id, score, bbox xywh, segmentation
    RLE) and are taken as `coco_standard` takes them. Crowds are ignored, not missed.
    """
    evaluation = _evaluated(truth, (dict(result) for result in results), kind)
    overall = {name.lower(): _percent(value) for name, value in _standard(evaluation).items()}
    # (IoU thresholds, recalls, classes, areas, detection limits): all areas, the largest limit
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    by_class = [_percent(p[p > -1].mean() if (p > -1).any() else -1) for p in precision.T]
    return CocoScores(overall, by_class)


def coco_standard(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: IouType
) -> dict[str, float]:
    """`COCO_METRICS` as COCO prints them: fractions of 1, and -1 where nothing could be measured.

    Results are taken as they are, as pycocotools does: one that has both a box and a mask belongs
    to the size of its box, also where masks are compared.
    """
    return _standard(_evaluated(truth, (dict(result) for result in results), kind))


def _evaluated(
    truth: Mapping[str, Any], results: Iterable[dict[str, Any]], kind: IouType
) -> COCOeval_faster:
    # Copies: what is compared gets notes written into it.
    reference = COCO({**truth, "annotations": [dict(one) for one in truth["annotations"]]})
    found = reference.loadRes(list(results))
    evaluation = COCOeval_faster(reference, found, iouType=kind, print_function=log.debug)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def _standard(evaluation: COCOeval_faster) -> dict[str, float]:
    return {name: float(evaluation.stats[i]) for i, name in enumerate(COCO_METRICS)}


def _percent(value: float) -> float:
    return 100 * float(value) if value >= 0 else -1.0
