"""COCO's annotation and result files, read with a sentence for whatever is wrong in them."""

import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from contramask.transfer.metrics import IouType

log = logging.getLogger(__name__)


def read_truth(path: Path, kind: IouType) -> dict[str, Any]:
    """A COCO annotation file: images, categories, annotations.

    Raises `ValueError` for what COCO's metrics cannot be computed from. As in COCO's own tools,
    objects of images that are not listed do not count, and the annotation id 0 does not work.
    """
    truth = _load(path)
    if not isinstance(truth, dict):
        raise ValueError(f"{path} is no COCO annotation file: it holds a {type(truth).__name__}")
    for key in ("images", "categories", "annotations"):
        if not isinstance(truth.get(key), list):
            raise ValueError(f"{path} is no COCO annotation file: the list {key!r} is missing")
    _check_ids(path, "image", truth["images"])
    _check_ids(path, "category", truth["categories"])
    _check_ids(path, "annotation", truth["annotations"])
    for annotation in truth["annotations"]:
        where = f"{path}: annotation {annotation['id']}"
        _check_whole(annotation, ("image_id", "category_id"), where)
        _check_box(annotation, where)
        _check_number(annotation, "area", where)
        if kind == "segm" and not annotation.get("segmentation"):
            raise ValueError(f"{where} has no segmentation, which --iou-type segm compares")
    if kind == "segm":
        for image in truth["images"]:
            _check_whole(image, ("height", "width"), f"{path}: image {image['id']}")
    if any(annotation["id"] == 0 for annotation in truth["annotations"]):
        log.warning(
            "%s: an annotation has the id 0, which COCO's evaluation takes for 'not found'; number "
            "annotations from 1",
            path,
        )
    return truth


def read_results(path: Path, truth: Mapping[str, Any], kind: IouType) -> list[dict[str, Any]]:
    """A COCO result file: a list of detections, each with image_id, category_id and score.

    A detection has a bbox, or an RLE segmentation from which its box follows. Raises `ValueError`
    for what is wrong; detections of a category that `truth` lacks do not count, as in COCO's tools.
    """
    results = _load(path)
    if not isinstance(results, list):
        raise ValueError(
            f"{path} is no COCO result file: give a list of detections [{{image_id, category_id, "
            "bbox or segmentation, score}, ...]"
        )
    images = {image["id"]: image for image in truth["images"]}
    boxed = bool(results) and "bbox" in _mapping(results[0], f"{path}: detection 0")
    for number, result in enumerate(results):
        where = f"{path}: detection {number}"
        _check_whole(_mapping(result, where), ("image_id", "category_id"), where)
        _check_number(result, "score", where)
        if result["image_id"] not in images:
            raise ValueError(
                f"{where} is in image {result['image_id']}, which the ground truth does not list"
            )
        if boxed:
            _check_box(result, where)
        if kind == "segm" or not boxed:
            _check_mask(result, images[result["image_id"]], where)
    _warn_of_unknown(path, (result["category_id"] for result in results), truth)
    return results


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text and so no JSON file") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from None


def _mapping(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {entry!r} and not an object with names and values")
    return entry


def _check_ids(path: Path, noun: str, entries: list[Any]) -> None:
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        _check_whole(_mapping(entry, f"{path}: {noun} {number}"), ("id",), f"{path}: {noun}")
        if entry["id"] in seen:
            raise ValueError(f"{path}: the {noun} id {entry['id']} is given twice")
        seen.add(entry["id"])


def _check_whole(entry: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{where}: {key} must be a whole number, and is {value!r}")


def _check_number(entry: Mapping[str, Any], key: str, where: str) -> None:
    if not _is_number(entry.get(key)):
        raise ValueError(f"{where}: {key} must be a number, and is {entry.get(key)!r}")


def _check_box(entry: Mapping[str, Any], where: str) -> None:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"{where}: bbox must be [x, y, width, height] in pixels, and is {box!r}")


def _check_mask(result: Mapping[str, Any], image: Mapping[str, Any], where: str) -> None:
    mask = result.get("segmentation")
    if not isinstance(mask, dict) or not {"size", "counts"} <= set(mask):
        raise ValueError(
            f"{where} needs a segmentation in run lengths, {{size: [height, width], counts: text}}"
            " (pycocotools.mask.encode makes them), or, for --iou-type bbox, a bbox"
        )
    size = [image.get("height"), image.get("width")]
    if None not in size and list(mask["size"]) != size:
        raise ValueError(
            f"{where}: the mask is of {mask['size']} pixels (rows, columns), its image of {size}"
        )


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _warn_of_unknown(path: Path, categories: Iterable[int], truth: Mapping[str, Any]) -> None:
    known = {category["id"] for category in truth["categories"]}
    unknown = [category for category in categories if category not in known]
    if unknown:
        named = ", ".join(map(str, sorted(set(unknown))[:10]))
        log.warning(
            "%s: %d detections are of categories that the ground truth does not list (%s) and do "
            "not count",
            *(path, len(unknown), named),
        )
