import itertools

import pandas as pd
import pytest

from contramask.report.charts import BOTTOM, LEFT, RIGHT, TOP
from contramask.report.scatter import LEADING, Point, calibration_panel, score_panel


def test_a_classifier_that_is_right_as_often_as_it_says_lies_on_the_diagonal():
    table = pd.DataFrame(
        {"confidence": [0, 50, 100], "accuracy": [0, 50, 100], "images": [1, 2, 1]}
    )
    panel = calibration_panel({"MAE": table, "none": table[:0]}, ["random init", "MAE"])
    assert panel is not None
    middle = ((LEFT + RIGHT) / 2, (BOTTOM + TOP) / 2)
    assert [(m.x, m.y) for m in panel.marks] == [(LEFT, BOTTOM), middle, (RIGHT, TOP)]
    assert panel.guide == f"M{LEFT} {BOTTOM}L{RIGHT} {TOP}"
    assert [line.series for line in panel.lines] == [1]
    assert "MAE is 50 % sure and 50 % right" in panel.alt
    assert calibration_panel({}, []) is None


def test_scores_stand_over_what_was_spent():
    points = [Point("MAE", 10.0, 50.0), Point("CMAE", 20.0, 60.0, margin=5.0)]
    panel = score_panel("kNN", points, "TFLOP", 30.0, ["random init", "MAE", "CMAE"])
    mae, cmae = sorted(panel.marks, key=lambda mark: mark.series)
    assert mae.x < cmae.x
    assert mae.y > cmae.y  # upwards is less in a drawing
    assert cmae.reach == pytest.approx((mae.y - cmae.y) / 2, abs=0.2)
    assert panel.guide_text == "random init 30.0"
    assert "CMAE reaches 60.0 % with 20 TFLOP" in panel.alt
    assert score_panel("kNN", points, "TFLOP", None, []).guide == ""


def test_names_of_close_dots_do_not_overlap():
    points = [Point(f"v{i}", 20.0, 50.0 + 0.01 * i) for i in range(4)]
    panel = score_panel("kNN", points, "TFLOP", 10.0, [])
    places = sorted(mark.text_y for mark in panel.marks)
    assert min(b - a for a, b in itertools.pairwise(places)) >= LEADING
