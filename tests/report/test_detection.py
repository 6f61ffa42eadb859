"""Mistakes of a detector and its precision by class, from what its stage left."""

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from contramask.report import detection
from contramask.report.sections import Owner
from contramask.report.tables import Stage
from contramask.results import StageOutput
from contramask.transfer import mistakes


def owner(rows: list[tuple[str, int, float]], crop: int = 64) -> Owner:
    """An encoder whose detector made these mistakes: kind, category, score."""
    table = pd.DataFrame(
        [
            {"kind": kind, "image": 7, "category": category, "score": score}
            | {"x0": 10.0, "y0": 20.0, "x1": 26.0, "y1": 28.0}
            for kind, category, score in rows
        ]
    )
    crops = np.full((len(rows), crop, crop, 3), 90, np.uint8)
    output = StageOutput(tables={"mae-mistakes": table}, arrays={"mae/mistakes": crops})
    return Owner("MAE", "mae", Stage("mae-s0", "detection", output))


def test_mistakes_are_captioned_with_class_score_and_size() -> None:
    nan = float("nan")
    found = detection.errors(owner([("invented", 0, 0.93), ("missed", 1, nan)]), ["cat", "dog"], 64)
    assert found is not None
    assert [kind for kind, _ in found.kinds] == ["Invented, the surest", "Missed, the largest"]
    (invented,), (missed,) = found.invented, found.missed
    assert invented.title == "cat, 93\N{NO-BREAK SPACE}% sure"
    assert missed.title.replace("\N{NO-BREAK SPACE}", " ") == "dog, 16 \N{MULTIPLICATION SIGN} 8 px"
    assert "MAE invented this object in validation image 7" in invented.alt
    assert invented.png != missed.png  # boxes of other colours
    assert found.pictures() == (invented, missed)


def test_only_some_mistakes_of_a_kind_are_drawn_and_an_empty_kind_is_left_out() -> None:
    found = detection.errors(owner([("invented", 0, 0.9)] * 8), [], 64)
    assert found is not None
    assert [(kind, len(own)) for kind, own in found.kinds] == [("Invented, the surest", 5)]


def test_stages_without_mistakes_have_no_panel() -> None:
    assert detection.errors(owner([]), [], 64) is None
    bare = Owner("MAE", "mae", Stage("mae-s0", "detection", StageOutput()))
    assert detection.errors(bare, [], 64) is None
    assert detection.found_picture(bare, [], 3, 0.5, 64) is None


def test_the_box_is_drawn_where_the_crop_was_cut_around_it() -> None:
    assert (detection.CONTEXT, detection.SHORTEST) == (mistakes.CONTEXT, mistakes.SHORTEST)
    found = detection.errors(owner([("invented", 0, 0.9)]), [], 64)
    assert found is not None
    pixels = np.array(Image.open(BytesIO(found.invented[0].png)).convert("RGB")).astype(int)
    orange = (abs(pixels - [230, 159, 0]) < 12).all(axis=-1)
    rows, cols = np.where(orange)
    # The box is 16 x 8 px of a crop 16 * 1.6 = 25.6 px wide: 40 and 20 of 64 pixels.
    assert cols.max() + 1 - cols.min() == pytest.approx(40, abs=2)
    assert rows.max() + 1 - rows.min() == pytest.approx(20, abs=2)
    assert (cols.min() + cols.max() + 1) / 2 == pytest.approx(32, abs=1)


def by_class(names: list[str], box: list[float], **more: list[float]) -> pd.DataFrame:
    objects = list(range(10, 10 + len(names)))
    return pd.DataFrame({"class": names, "objects": objects, "box_ap": box, **more})


ORDER = ["random init", "MAE"]


def test_bars_by_class_with_what_gains_most() -> None:
    tables = {
        "random init": by_class(["cat", "dog", "owl"], [10.0, 20.0, float("nan")]),
        "MAE": by_class(["cat", "dog", "owl"], [40.0, 19.0, 5.0]),
    }
    (chart,) = detection.class_charts(tables, ORDER)
    assert chart.variants == ("random init", "MAE")
    assert [name.text for name in chart.names] == ["cat", "dog", "owl"]
    assert len(chart.bars) == 5  # an unknown number has no bar
    lengths = [bar.x - chart.start for bar in chart.bars]
    assert lengths[1] == pytest.approx(4 * lengths[0], abs=0.5)
    assert [bar.series for bar in chart.bars] == [0, 1, 0, 1, 1]
    assert chart.gains == (
        "MAE gains most on cat (+30.0 points) and least on dog (\N{MINUS SIGN}1.0)",
    )
    assert "10 to 12 objects a class" in chart.note
    assert max(bar.y for bar in chart.bars) < chart.bottom < chart.height


def test_of_many_classes_those_with_the_most_objects_and_long_names_cut() -> None:
    names = [f"a class with a long name {i}" for i in range(30)]
    table = by_class(names, [1.0] * 30, mask_ap=[2.0] * 30)
    charts = detection.class_charts({"MAE": table}, ORDER)
    assert [chart.title for chart in charts] == list(detection.MEASURES.values())
    assert len(charts[0].names) == detection.MAX_CLASSES
    assert "20 of 30 classes" in charts[0].note
    assert all(len(name.text) <= detection.MAX_LETTERS for name in charts[0].names)
    assert charts[0].gains == ()  # nothing to compare with


def test_tables_without_numbers_have_no_chart() -> None:
    assert detection.class_charts({}, ORDER) == []
    assert detection.class_charts({"MAE": by_class(["cat"], [float("nan")])}, ORDER) == []
    assert detection.class_charts({"MAE": pd.DataFrame({"class": ["cat"]})}, ORDER) == []
