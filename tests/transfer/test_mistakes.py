"""Invented and missed objects: who counts as which, the order, and the crops."""

from typing import Any

import numpy as np
import pytest

from contramask.transfer.mistakes import SIDE, crops, detection_mistakes


class Split:
    """Two images with known objects: (category, box, mask, iscrowd)."""

    def __init__(self) -> None:
        self.images = np.zeros((2, 40, 60, 3), np.uint8)
        self.images[0, 10:20, 10:30] = 200
        blank = np.zeros((40, 60), bool)
        self.objects = {
            0: [(1, (10, 10, 30, 20), blank, False), (0, (40, 20, 44, 24), blank, False)],
            1: [(1, (0, 0, 60, 20), blank, True)],
        }

    def instances_of(self, row: int) -> list[Any]:
        return self.objects[row]

    def __getitems__(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]


def result(image: int, category: int, score: float, box: list[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    return {
        "image_id": image,
        "category_id": category,
        "score": score,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
    }


ROWS = np.array([0, 1])


def mistakes(found: list[dict[str, Any]], count: int = 8) -> list[tuple[str, int, int]]:
    table = detection_mistakes(found, Split(), ROWS, count)  # type: ignore[arg-type]
    return list(zip(table["kind"], table["image"], table["category"], strict=True))


def test_a_found_object_is_no_mistake_and_a_second_box_on_it_is() -> None:
    good = result(0, 1, 0.9, [11, 10, 30, 20])
    again = result(0, 1, 0.8, [10, 10, 28, 20])
    assert mistakes([good]) == [("missed", 0, 0)]
    assert mistakes([good, again]) == [("invented", 0, 1), ("missed", 0, 0)]


def test_the_wrong_class_and_the_wrong_place_are_invented() -> None:
    found = [result(0, 0, 0.3, [10, 10, 30, 20]), result(0, 1, 0.6, [20, 20, 40, 30])]
    assert mistakes(found) == [
        ("invented", 0, 1),  # the surer first
        ("invented", 0, 0),
        ("missed", 0, 1),  # the larger first
        ("missed", 0, 0),
    ]


def test_what_lies_in_a_crowd_is_neither_right_nor_wrong() -> None:
    assert mistakes([result(1, 1, 0.9, [0, 0, 55, 20])]) == [("missed", 0, 1), ("missed", 0, 0)]


def test_at_most_so_many_of_either_kind_and_none_at_all() -> None:
    found = [result(1, 0, score, [0, 30, 8, 38]) for score in (0.2, 0.9, 0.5)]
    table = detection_mistakes(found, Split(), ROWS, 2)  # type: ignore[arg-type]
    assert table["score"].dropna().tolist() == [0.9, 0.5]
    perfect = [result(0, 1, 0.9, [10, 10, 30, 20]), result(0, 0, 0.9, [40, 20, 44, 24])]
    assert mistakes(perfect) == []


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_crop_shows_the_box_in_its_surroundings(channels: int) -> None:
    split = Split()
    split.images = np.repeat(split.images[..., :1], channels, axis=-1)
    table = detection_mistakes([], split, ROWS, 1)  # type: ignore[arg-type]
    picture = crops(table, split)[0]  # type: ignore[arg-type]
    assert picture.shape == (SIDE, SIDE, channels)
    assert picture[SIDE // 2, SIDE // 2, 0] == 200
    assert picture[0, 0, 0] == 0
    # 20 of 32 px wide
    assert (picture[SIDE // 2, :, 0] > 100).mean() == pytest.approx(20 / 32, abs=0.03)
