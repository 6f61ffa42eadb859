import pandas as pd

from contramask.report.cards import (
    box_facts,
    box_groups,
    box_quality,
    box_remarks,
    class_counts,
    data_facts,
    problem_table,
)


def test_the_data_card_starts_with_what_matters():
    card = {
        "bit_depths": {"8": 3},
        "image_size": [32, 48],
        "name": "ours",
        "sizes": {"height": {"min": 1.0}},
        "class_counts": {"train": {"cat": 3}},
        "semantic_classes": [],
    }
    assert list(data_facts(card).items()) == [
        ("name", "ours"),
        ("image size", "32 \N{MULTIPLICATION SIGN} 48 pixels"),
        ("semantic classes", "none"),
        ("bit depths", "8: 3"),
        ("sizes, height", "min: 1"),
    ]


def test_class_counts_are_laid_side_by_side():
    table = class_counts({"class_counts": {"train": {"cat": 3}, "val": {"cat": 1}}})
    assert table is not None
    assert table.columns == ("", "train", "val")
    assert table.rows == (("cat", "3", "1"),)
    assert class_counts({}) is None


def test_problems_name_the_file_and_what_was_done():
    frame = pd.DataFrame(
        {"id": [1], "path": ["a.jpg"], "problem": ["broken"], "action": ["skipped"]}
    )
    table = problem_table(frame)
    assert table is not None
    assert table.columns == ("File", "Problem", "What was done")
    assert table.rows == (("a.jpg", "broken", "skipped"),)
    assert problem_table(frame.iloc[:0]) is None


def test_crop_boxes_are_told_in_shares_beside_boxes_that_know_nothing():
    manifest = {
        "method": "gt",
        "rule": None,
        "stats": {"area_mean": 0.314, "score_quantiles": {"0.5": 1}},
        "quality": {"boxes": {"shuffled": {"iou": 0.2}, "found": {"iou": 0.61, "images": 9}}},
        "reasons": ["too large"],
        "warnings": ["few"],
    }
    assert box_facts(manifest) == {"method": "gt", "Area of a box, mean": "31 %"}
    assert box_remarks(manifest) == ["too large", "few"]
    table = box_quality(manifest)
    assert table is not None
    assert table.columns == ("Boxes", "Mean IoU")
    assert table.rows == (("these boxes", "61 %"), ("the same, dealt to other images", "20 %"))


def test_boxes_without_a_known_truth_have_no_quality():
    assert box_quality({"quality": None}) is None
    assert (box_facts({}), box_remarks({})) == ({}, [])


def test_quality_by_group_of_objects() -> None:
    quality = {
        "by_size": {"small": {"images": 1200, "iou": 0.25, "corloc": 0.1, "area": 0.5}},
        "by_offset": {"off_centre": {"images": 3, "iou": 0.5, "coverage": 0.75}},
    }
    table = box_groups({"quality": quality})
    assert table is not None
    assert [row[0] for row in table.rows] == [
        "small: under a tenth of the image",
        "the third farthest from the centre",
    ]
    assert table.rows[0][1:4] == ("1,200", "25 %", "10 %")
    assert box_groups({}) is None
