"""Metrics of boxes and crops on cases small enough to work out by hand."""

import numpy as np
import pandas as pd
import pytest

from contramask.boxes import quality
from contramask.boxes.quality import CropConfig, GroundTruth

SIZE = (64, 64)


def instances(*rows: tuple[int, float, float, float, float]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["image", "x0", "y0", "x1", "y1"])
    return table.assign(category=0, iscrowd=False, area=0.0)


def truth_of(boxes: np.ndarray) -> GroundTruth:
    rows = np.arange(len(boxes))
    return GroundTruth(rows, boxes.astype(np.float32), rows)


def random_boxes(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (count, 2))
    return np.concatenate([low, low + rng.uniform(0.15, 0.5, (count, 2))], axis=1).astype("f4")


def test_unusable_truth_is_left_out() -> None:
    table = instances(
        (0, 0, 0, 64, 64),
        (1, 10, 10, 13, 40),
        (2, 0, 0, 10, 10),
        (2, 8, 8, 40, 40),
        (3, 1, 1, 9, 9),
    )
    table.loc[4, "iscrowd"] = True
    truth = quality.ground_truth(table, SIZE)
    assert truth.image.tolist() == [2, 2]
    assert truth.main.tolist() == [[8 / 64, 8 / 64, 40 / 64, 40 / 64]]
    assert truth.images.tolist() == [2]


def test_scores_by_hand() -> None:
    truth = truth_of(np.array([[0.0, 0.0, 0.5, 0.5]]))
    row = quality.box_scores(np.array([[0.25, 0.0, 0.75, 0.5]], np.float32), truth).iloc[0]
    assert row["iou"] == pytest.approx(1 / 3)
    assert row["coverage"] == pytest.approx(0.5)
    assert row["tightness"] == pytest.approx(0.5)
    assert row["centre_in_box"] == 1
    assert row["area"] == pytest.approx(0.25)


def test_the_best_of_several_objects_counts() -> None:
    truth = quality.ground_truth(instances((0, 0, 0, 48, 48), (0, 40, 40, 60, 60)), SIZE)
    box = np.array([[40, 40, 60, 60]], dtype=np.float32) / 64
    scores = quality.box_scores(box, truth)
    assert len(scores) == 1
    assert scores["iou"].iloc[0] == pytest.approx(1)


def test_only_annotated_images_count() -> None:
    truth = quality.ground_truth(instances((2, 0, 0, 32, 32)), SIZE)
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0.5, 0.5]], np.float32)
    found = quality.summary(quality.box_scores(boxes, truth))
    assert found["images"] == 1
    assert found["corloc"] == found["iou"] == found["max_box_acc"] == 1


def test_perfect_boxes_beat_every_baseline() -> None:
    boxes = random_boxes(300)
    found = quality.compare_boxes(boxes, truth_of(boxes))
    assert found["boxes"]["found"]["iou"] == pytest.approx(1)
    for name in ("shuffled", "full", "center_half", "mean_box"):
        assert found["boxes"][name]["iou"] < 0.6
    assert found["boxes"]["full"]["coverage"] == pytest.approx(1)
    assert found["boxes"]["shuffled"]["area"] == pytest.approx(found["boxes"]["found"]["area"])
    assert sum(group["images"] for group in found["by_size"].values()) == 300
    assert [
        found["by_offset"][name]["images"] for name in ("centred", "between", "off_centre")
    ] == [
        100,
        100,
        100,
    ]


def test_groups() -> None:
    truth = truth_of(np.array([[0.4, 0.4, 0.6, 0.6], [0.0, 0.0, 0.5, 0.5], [0.1, 0.1, 0.95, 0.95]]))
    assert quality.size_groups(truth).tolist() == ["small", "middle", "large"]
    assert quality.offset_groups(truth).tolist() == ["centred", "off_centre", "between"]


def test_shuffling_keeps_the_boxes_and_changes_their_images() -> None:
    boxes = random_boxes(200)
    dealt = quality.shuffled(boxes)
    assert np.array_equal(np.sort(dealt, axis=0), np.sort(boxes, axis=0))
    assert (dealt != boxes).any(axis=1).mean() > 0.9
    assert np.array_equal(dealt, quality.shuffled(boxes))


def test_crops_around_true_boxes_miss_less_and_reach_the_published_numbers() -> None:
    # The off-centre object of an independent simulation: y .55-.90, x .10-.45 at 224 px.
    boxes = np.tile(np.array([0.10, 0.55, 0.45, 0.90], np.float32), (60, 1))
    found = quality.compare_crops(boxes, truth_of(boxes), (224, 224), CropConfig())["all"]
    assert found["plain"]["coverage"] == pytest.approx(0.681, abs=0.03)
    assert found["plain"]["pair_miss"] == pytest.approx(0.147, abs=0.03)
    assert found["found"]["coverage"] == pytest.approx(0.961, abs=0.02)
    assert found["found"]["pair_miss"] == 0
    assert found["found"]["pair_iou"] == pytest.approx(0.600, abs=0.03)
    assert found["full"]["pair_miss"] == pytest.approx(0.197, abs=0.03)
    assert found["full"]["pair_iou"] == pytest.approx(0.479, abs=0.03)
