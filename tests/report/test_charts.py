import numpy as np
import pandas as pd

from contramask.report.charts import (
    BOTTOM,
    LEFT,
    MAX_CLASSES,
    MAX_COLOURS,
    MAX_POINTS,
    RIGHT,
    TOP,
    class_name,
    confusion_chart,
    curve_panels,
    feature_dots,
)


def curve(**terms):
    count = len(next(iter(terms.values())))
    return pd.DataFrame({"step": range(count), "epoch": np.arange(count) / 10, **terms})


def points(path):
    return np.array([pair.split() for pair in path.removeprefix("M").split("L")], float)


def test_every_term_has_its_panel_in_reading_order():
    frame = curve(lr=[1.0, 2.0], images_per_s=[5.0, 5.0], own_term=[1.0, 2.0], loss=[3.0, 1.0])
    panels = curve_panels({"a": frame}, {"a": "MAE"}, ["MAE"])
    assert [panel.title for panel in panels] == ["Loss", "Learning rate", "Own term"]
    assert panels[0].alt == "Loss by epoch: a goes from 3 to 1."


def test_lines_stay_inside_the_axes_and_fall_when_the_loss_falls():
    (panel,) = curve_panels({"a": curve(loss=[3.0, 2.0, 1.0])}, {"a": "MAE"}, ["MAE"])
    drawn = points(panel.lines[0].path)
    assert drawn[:, 0].min() >= LEFT
    assert drawn[:, 0].max() <= RIGHT
    assert drawn[:, 1].min() >= TOP
    assert drawn[:, 1].max() <= BOTTOM
    assert (np.diff(drawn[:, 1]) > 0).all()  # down the page


def test_seeds_share_the_colour_of_their_variant():
    frames = {name: curve(loss=[2.0, 1.0]) for name in ("cmae-s0", "mae-s0", "mae-s1")}
    names = {"cmae-s0": "CMAE", "mae-s0": "MAE", "mae-s1": "MAE"}
    (panel,) = curve_panels(frames, names, ["random init", "MAE", "CMAE"])
    assert [(line.name, line.series) for line in panel.lines] == [
        ("CMAE", 2),
        ("MAE", 1),
        ("MAE", 1),
    ]


def test_a_method_without_a_term_is_not_in_its_panel():
    frames = {"a": curve(loss=[2.0, 1.0], contrast_loss=[1.0, 1.0]), "b": curve(loss=[1.0, 1.0])}
    panels = curve_panels(frames, {"a": "CMAE", "b": "MAE"}, ["MAE", "CMAE"])
    assert [len(panel.lines) for panel in panels] == [2, 1]


def test_long_constant_and_broken_curves_are_drawn():
    noisy = np.full(1000, 2.0)
    noisy[3] = np.nan
    (panel,) = curve_panels({"a": curve(loss=noisy)}, {"a": "MAE"}, ["MAE"])
    drawn = points(panel.lines[0].path)
    assert len(drawn) == MAX_POINTS
    assert np.isfinite(drawn).all()


def test_nothing_to_draw_gives_no_panel():
    assert curve_panels({}, {}, []) == []
    assert curve_panels({"a": curve(loss=[np.nan, np.nan])}, {"a": "MAE"}, ["MAE"]) == []


def test_feature_dots_separate_classes_that_differ():
    labels = np.repeat([0, 1], 20)
    features = np.eye(4)[labels] + np.random.default_rng(0).normal(0, 0.01, (40, 4))
    dots = feature_dots("MAE", features.astype(np.float16), labels, ["cat", "dog"])
    places = [
        np.array([dot.split("h")[0].split() for dot in path.split("M")[1:]], float)
        for _, path in dots.classes
    ]
    assert [name for name, _ in dots.classes] == ["cat", "dog"]
    assert abs(places[0][:, 0].mean() - places[1][:, 0].mean()) > 200
    assert "40 validation images" in dots.alt


def test_feature_dots_tell_only_so_many_classes_apart():
    labels = np.arange(300) % 30
    features = np.random.default_rng(0).normal(size=(300, 5))
    dots = feature_dots("MAE", features, labels, [])
    assert len(dots.classes) == MAX_COLOURS
    assert dots.classes[0][0] == "class 0"
    assert "of 30 classes" in dots.note


def test_confusion_shares_are_of_rows_and_mistakes_are_named():
    counts = np.array([[8, 2], [0, 5]])
    chart = confusion_chart("MAE", counts, ["cat", "dog"])
    assert [square.share for square in chart.squares] == [0.8, 0.2, 0.0, 1.0]
    assert chart.confused == ("cat taken for dog: 2 times",)
    assert "86.7 % on the diagonal" in chart.alt


def test_many_classes_are_cut_to_the_most_confused():
    counts = np.eye(50, dtype=int) * 9
    counts[40, 41] = 5
    chart = confusion_chart("MAE", counts, [])
    assert len(chart.names) == MAX_CLASSES
    assert "class 40" in {tick.text for tick in chart.names}
    assert chart.note.startswith(f"the {MAX_CLASSES} of 50 classes")


def test_class_names_fall_back_on_numbers():
    assert class_name(1, ["a", "b"]) == "b"
    assert class_name(7, ["a"]) == "class 7"
    assert class_name(-1, ["a"]) == "unlabelled"
