import numpy as np
import pandas as pd

from contramask.report import detection, gallery
from contramask.report.tables import Stage
from contramask.results import StageOutput


def material(stages=(), **changes):
    given = {
        "stages": stages,
        "variants": {"mae-s0": "MAE", "mae-s1": "MAE", "cmae-s0": "CMAE"},
        "order": ["random init", "MAE", "CMAE"],
        "classes": {"classes": ["cat"]},
        "contact_sheet": np.zeros((0, 0, 3), np.uint8),
        "preview": {},
        "count": 3,
        "min_score": 0.5,
    }
    return gallery.Material(**{**given, **changes})


def noise(*shape):
    return np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)


def pretrained(experiment, **arrays):
    return Stage(experiment, "pretrain", StageOutput(arrays=arrays))


def test_pictures_shrink_until_they_fit():
    stage = pretrained("mae-s0", original=noise(3, 128, 128, 3), masked=noise(3, 128, 128, 3))
    large = gallery.draw(material([stage]), 10**7).reconstructions[0]
    small = gallery.draw(material([stage]), 40_000).reconstructions[0]
    assert large.size[0] > small.size[0]
    assert len(small.png) <= 40_000
    assert gallery.draw(material([stage]), 1).reconstructions[0].png


def test_each_variant_is_shown_once_in_the_order_of_the_tables():
    view = noise(4, 8, 8, 3)
    stages = [pretrained(name, view=view) for name in ("cmae-s0", "mae-s0", "mae-s1")]
    shown = gallery.draw(material(stages), 10**7).views
    assert [picture.title for picture in shown] == ["MAE, mae-s0", "CMAE, cmae-s0"]


def test_only_sure_boxes_are_drawn_but_the_best_one_always():
    boxes = pd.DataFrame({"image": [0, 0, 0, 1, 1], "score": [0.2, 0.9, 0.6, 0.1, 0.3]})
    kept = detection.sure_boxes(boxes, 0.5)
    assert sorted(kept["score"]) == [0.3, 0.6, 0.9]


def test_the_anchor_is_drawn_first_whoever_measured_it():
    confusion = np.eye(3, dtype=int)
    output = StageOutput(
        arrays={"mae/confusion": confusion, "random_init/confusion": confusion},
        facts={"classes": ["a", "b", "c"]},
    )
    charts = gallery.confusions(material([Stage("mae-s0", "finetune", output)]))
    assert [chart.title for chart in charts] == ["random init", "MAE"]
    assert charts[0].names[2].text == "c"


def test_tables_by_class_are_grouped_by_what_they_measure():
    table = pd.DataFrame({"class": ["cat"], "iou": [50.0]})
    output = StageOutput(
        tables={"mae-linear-per_class": table, "random_init-linear-per_class": table}
    )
    found = gallery.class_tables(material([Stage("mae-s0", "segmentation", output)]))
    assert {name: list(group) for name, group in found.items()} == {
        "segmentation linear-per_class": ["random init", "MAE"]
    }


def test_skipped_stages_have_no_pictures():
    stage = Stage("mae-s0", "segmentation", StageOutput.skipped("segmentation", "no masks"))
    assert gallery.draw(material([stage]), 10**7).pictures() == []
    assert gallery.dots(material([stage])) == []


def test_what_tokens_draw_is_shown_beside_the_images():
    output = StageOutput(
        arrays={"original": noise(2, 8, 8, 3), "reconstruction": noise(2, 8, 8, 3)}
    )
    drawn = gallery.draw(material([Stage("mae-s0", "tokenizer", output)]), 10**7)
    assert [picture.name for picture in drawn.tokens] == ["tokens-mae-s0"]
    assert drawn.reconstructions == ()
