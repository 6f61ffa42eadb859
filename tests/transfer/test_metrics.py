"""Dense metrics against brute force and against pycocotools."""

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
import torch

from contramask.transfer.metrics import (
    COCO_METRICS,
    coco_scores,
    coco_truth,
    confusion_matrix,
    encode_masks,
    per_class_table,
    segmentation_scores,
)

SIZE = (40, 56)
CLASSES = ["cat", "dog", "bird"]


def brute_force(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> dict[str, float]:
    """Scores straight from their definitions, a set of pixels at a time."""
    seen = truth != 255
    ious, accuracies, weighted = [], [], 0.0
    for c in range(num_classes):
        is_true, is_pred = (truth == c) & seen, (predicted == c) & seen
        if (is_true | is_pred).any():
            iou = (is_true & is_pred).sum() / (is_true | is_pred).sum()
            ious.append(iou)
            weighted += iou * is_true.sum() / seen.sum()
        if is_true.any():
            accuracies.append((is_true & is_pred).sum() / is_true.sum())
    hits = ((truth == predicted) & seen).sum() / seen.sum()
    scores = {"miou": np.mean(ious), "macc": np.mean(accuracies), "aacc": hits, "fwiou": weighted}
    return {name: 100 * float(value) for name, value in scores.items()}


def test_scores_equal_brute_force_with_ignored_pixels_and_absent_classes() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 3, 255], size=(3, 20, 24), p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8)
    # class 2 is predicted but never true, class 4 is neither, class 1 is sometimes hit
    predicted = np.where(
        rng.random(truth.shape) < 0.6, truth, rng.choice([0, 1, 2, 3], truth.shape)
    )
    predicted[truth == 255] = 4  # must not count
    confusion = confusion_matrix(torch.from_numpy(truth), torch.from_numpy(predicted), 6)
    assert confusion.sum() == (truth != 255).sum()
    assert segmentation_scores(confusion) == pytest.approx(
        brute_force(truth, predicted, 6), abs=1e-9
    )
    table = per_class_table(confusion, list("abcdef"))
    assert table["iou"].isna().tolist() == [False, False, False, False, True, True]
    assert table["share"].sum() == pytest.approx(100)


def test_matrix_has_true_classes_in_rows_and_refuses_unknown_ones() -> None:
    truth, predicted = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    assert confusion_matrix(truth, predicted, 2).tolist() == [[1, 1], [0, 1]]
    with pytest.raises(ValueError, match="class 2 of only 2"):
        confusion_matrix(torch.tensor([2]), torch.tensor([0]), 2)


def test_all_ignored_gives_zero_not_nan() -> None:
    empty = confusion_matrix(torch.tensor([255]), torch.tensor([0]), 3)
    assert segmentation_scores(empty) == {"miou": 0.0, "macc": 0.0, "aacc": 0.0, "fwiou": 0.0}


def blob(rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """A random filled ellipse and its box x0, y0, x1, y1."""
    rows, cols = SIZE
    cy, cx, ry, rx = rng.uniform((8, 8, 3, 3), (rows - 8, cols - 8, 8, 8))
    y, x = np.mgrid[:rows, :cols]
    mask = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1
    ys, xs = np.nonzero(mask)
    return mask, [float(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]


def small_file() -> tuple[pd.DataFrame, list[dict[str, object]]]:
    """Nine images, two of them empty, one with a crowd; noisy results, also on an empty image."""
    rng = np.random.default_rng(7)
    rows, results = [], []
    for image in range(9):
        for number in range(0 if image in (3, 6) else 4):
            mask, box = blob(rng)
            crowd = image == 1 and number == 0
            rows.append([image, number % 3, *box, mask.sum(), crowd, encode_masks(mask[None])[0]])
            shifted = np.roll(mask, rng.integers(-2, 3), axis=1)
            results += [result(image, number % 3 if rng.random() < 0.8 else 0, shifted, rng)]
        if image in (1, 3):
            results.append(result(image, 1, blob(rng)[0], rng))
    columns = ["image", "category", "x0", "y0", "x1", "y1", "area", "iscrowd", "rle"]
    return pd.DataFrame(rows, columns=columns), results


def result(
    image: int, category: int, mask: np.ndarray, rng: np.random.Generator
) -> dict[str, object]:
    ys, xs = np.nonzero(mask)
    x0, y0 = int(xs.min()), int(ys.min())
    return {
        "image_id": image,
        "category_id": category,
        "score": float(rng.random()),
        "bbox": [x0, y0, int(xs.max()) + 1 - x0, int(ys.max()) + 1 - y0],
        "segmentation": {"size": list(SIZE), "counts": encode_masks(mask[None])[0]},
    }


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_scores_equal_pycocotools(kind: str) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    instances, results = small_file()
    truth = coco_truth(instances, range(9), SIZE, CLASSES)
    assert any(a["iscrowd"] for a in truth["annotations"])
    ours = coco_scores(truth, results, kind)  # type: ignore[arg-type]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {**coco_truth(instances, range(9), SIZE, CLASSES), "info": {}}
        reference.createIndex()
        found = reference.loadRes([dict(result) for result in results])
        evaluation = COCOeval(reference, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    reference_stats = [100 * value if value >= 0 else -1.0 for value in evaluation.stats]
    assert list(ours.overall.values()) == pytest.approx(reference_stats, abs=1e-6)
    assert 5 < ours.overall["ap"] < 95
    assert np.mean(ours.by_class) == pytest.approx(ours.overall["ap"], abs=1e-6)


def test_coco_scores_without_any_result_are_zero() -> None:
    instances, _ = small_file()
    scores = coco_scores(coco_truth(instances, range(9), SIZE, CLASSES), [], "segm")
    assert list(scores.overall) == [name.lower() for name in COCO_METRICS]
    assert set(scores.overall.values()) <= {0.0, -1.0}
    assert scores.by_class == [0.0, 0.0, 0.0]


def test_truth_keeps_only_the_asked_images() -> None:
    instances, _ = small_file()
    truth = coco_truth(instances, [0, 3], SIZE, CLASSES)
    assert [image["id"] for image in truth["images"]] == [0, 3]
    assert {a["image_id"] for a in truth["annotations"]} == {0}
