import numpy as np
import pandas as pd
import pytest

from contramask.report.sections import (
    Owner,
    cost_table,
    flatten,
    frame_table,
    in_words,
    merged_table,
    not_run,
    owners,
    side_by_side,
    token_table,
    variants_of,
)
from contramask.report.tables import Gathered, Stage
from contramask.results import StageOutput


def stage(experiment, task, **facts):
    return Stage(experiment, task, StageOutput(facts=facts))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "\N{EN DASH}"),
        (float("nan"), "\N{EN DASH}"),
        (True, "yes"),
        (np.float32(0.00025), "0.00025"),
        (12000, "12,000"),
        ([], "none"),
        ({"train": 3, "val": [1, 2]}, "train: 3, val: 1, 2"),
        (list(range(30)), ", ".join(map(str, range(24))) + " and 6 more"),
    ],
)
def test_values_in_words(value, words):
    assert in_words(value) == words


def test_settings_are_flattened_and_laid_side_by_side():
    assert flatten({"a": {"b": 1, "c": {}}, "d": "x"}) == {"a.b": "1", "a.c": "none", "d": "x"}
    table = side_by_side("plan", {"MAE": {"epochs": 20}, "CMAE": {"tau": 0.1}, "none": {}})
    assert table is not None
    assert table.columns == ("", "MAE", "CMAE")
    assert table.rows == (("epochs", "20", "\N{EN DASH}"), ("tau", "\N{EN DASH}", "0.1"))
    assert side_by_side("plan", {"MAE": {}}) is None


def test_long_frames_are_cut_and_say_so():
    table = frame_table("all", pd.DataFrame({"a_b": range(5)}), limit=2)
    assert table.rows == (("0",), ("1",))
    assert table.columns == ("a b",)
    assert table.caption == "all (the first 2 of 5 rows)"


def test_tables_by_class_are_joined_on_the_class():
    mae = pd.DataFrame({"class": ["cat", "dog"], "iou": [1.0, 2.0]})
    cmae = pd.DataFrame({"class": ["cat"], "iou": [3.0]})
    table = merged_table("iou", {"MAE": mae, "CMAE": cmae})
    assert table.columns == ("class", "MAE: iou", "CMAE: iou")
    assert table.rows == (("cat", "1", "3"), ("dog", "2", "\N{EN DASH}"))


def test_what_all_variants_share_is_said_once():
    mae = pd.DataFrame({"class": ["cat", "dog"], "images": [5, 6], "recall": [1.0, 2.0]})
    table = merged_table("recall", {"MAE": mae, "CMAE": mae.assign(recall=3.0)})
    assert table.columns == ("class", "images", "MAE: recall", "CMAE: recall")
    assert table.rows[0] == ("cat", "5", "1", "3")


def test_a_share_of_the_labels_belongs_to_its_method():
    arrays = {"supmim/confusion": np.eye(2), "random_init/confusion": np.eye(2)}
    arrays |= {f"{key}-10-percent/confusion": np.zeros((2, 2)) for key in ("supmim", "random_init")}
    found = owners(
        [Stage("supmim-s0", "finetune", StageOutput(arrays=arrays))],
        *("finetune", {"supmim-s0": "SupMIM"}, ["random init", "SupMIM"]),
    )
    assert {owner.variant: owner.key for owner in found} == {
        "random init": "random_init",
        "SupMIM": "supmim",
    }


def test_a_methods_name_may_hold_a_hyphen():
    rows = pd.DataFrame({"method": ["dino-vit-s", "random_init"], "encoder": "128x6/4"})
    arrays = {"dino-vit-s/images": np.ones(2), "random_init/images": np.zeros(2)}
    frame = pd.DataFrame({"class": ["a"]})
    tables = {"dino-vit-s-linear-per_class": frame, "random_init-linear-per_class": frame}
    stages = [Stage("dino-s0", "segmentation", StageOutput(rows, tables, arrays))]
    order = ["random init", "dino-vit-s"]
    found = owners(stages, "segmentation", {"dino-s0": "dino-vit-s"}, order)
    assert {owner.variant: owner.key for owner in found} == {
        "random init": "random_init",
        "dino-vit-s": "dino-vit-s",
    }
    assert [list(owner.tables()) for owner in found] == [["linear-per_class"]] * 2
    assert {owner.variant: owner.arrays()["images"][0] for owner in found} == {
        "random init": 0,
        "dino-vit-s": 1,
    }


def test_what_begins_like_a_shorter_method_is_not_its_own():
    tables = {f"{name}-near": pd.DataFrame({"query": [0]}) for name in ("mae", "mae-large")}
    rows = pd.DataFrame({"method": ["mae", "mae-large"], "encoder": "128x6/4"})
    both = Stage("a", "probe", StageOutput(rows, tables))
    assert list(Owner("MAE", "mae", both).tables()) == ["near"]


def test_what_was_not_run_is_said_with_its_reason():
    stages = (
        stage("a", "probe"),
        stage("a", "tokenizer", skipped="not needed"),
        stage("a", "detection", skipped="no objects"),
        stage("b", "detection", skipped="no objects"),
        stage("c", "detection"),
    )
    lines = not_run(Gathered(stages, ("b/probe: bad file",)))
    assert lines == [
        ("Object detection", "no objects", "a, b"),
        (
            "Frozen features",
            "there is no result, though other experiments have one",
            "c",
        ),
        ("Frozen features", "cannot be read (bad file)", "b"),
    ]


def test_an_experiment_without_rows_belongs_to_its_other_seeds():
    rows = pd.DataFrame({"experiment": ["mae-1f2e-s0"], "variant": ["MAE"]})
    stages = [stage(name, "probe") for name in ("mae-1f2e-s0", "mae-1f2e-s1", "other")]
    found = variants_of(stages, rows)
    assert found == {"mae-1f2e-s0": "MAE", "mae-1f2e-s1": "MAE", "other": "other"}


def test_anchors_of_several_sizes_are_shown_apart():
    stages = []
    for heads in (4, 8):
        rows = {"method": ["random_init"], "encoder": [f"128x6/4, {heads} heads, MLP 4"]}
        arrays = {"random_init/confusion": np.full((2, 2), heads)}
        output = StageOutput(pd.DataFrame(rows), arrays=arrays)
        stages.append(Stage(f"mae{heads}-s0", "finetune", output))
    variants = {"mae4-s0": "MAE 4 heads", "mae8-s0": "MAE 8 heads"}
    (one,) = owners(stages[:1], "finetune", variants, ["random init", "MAE 4 heads"])
    assert one.variant == "random init"
    found = owners(
        stages, "finetune", variants, ["random init 4 heads", "random init 8 heads", *variants]
    )
    assert {o.variant: int(o.arrays()["confusion"][0, 0]) for o in found} == {
        "random init 4 heads": 4,
        "random init 8 heads": 8,
    }


def test_costs_are_means_over_seeds():
    rows = pd.DataFrame(
        {
            "variant": ["MAE", "MAE"],
            "protocol": "pretrain",
            "metric": "images_per_s",
            "value": [900.0, 1100.0],
        }
    )
    table = cost_table(rows, ["MAE"])
    assert table is not None
    assert table.rows == (("MAE", "1,000"),)
    assert cost_table(rows.iloc[:0], []) is None


def test_the_health_of_tokens_is_shown_where_there_are_tokens():
    lines = [
        ("SupMIM", "tokenizer", "perplexity", 200.4),
        ("SupMIM", "tokenizer", "top_code", 1.26),
    ]
    lines += [("MAE", "pretrain", "loss", 0.5)]
    rows = pd.DataFrame(lines, columns=["variant", "protocol", "metric", "value"])
    table = token_table(rows, ["MAE", "SupMIM"])
    assert table is not None
    assert table.columns == ("", "Codes that would say as much", "Most frequent code (%)")
    assert table.rows == (("SupMIM", "200", "1.3"),)
    assert token_table(rows.iloc[2:], ["MAE"]) is None
