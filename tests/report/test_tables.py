import numpy as np
import pandas as pd
import pytest
from scipy import stats

from contramask.report.intervals import Cell, difference_half_width, half_width
from contramask.report.tables import (
    add_variants,
    collect_rows,
    gather,
    main_tables,
    measure,
    variant_order,
)
from contramask.results import COLUMNS, StageOutput


def frame(*rows):
    """Rows from (method, seed, metric, protocol, readout, value) with one encoder and data set."""
    made = []
    for method, seed, metric, protocol, readout, value in rows:
        row = dict.fromkeys(COLUMNS, "x")
        row |= {"experiment": f"{method}-s{seed}", "method": method, "seed": seed}
        row |= {"metric": metric, "protocol": protocol, "readout": readout, "value": value}
        made.append({**row, "split": "val"})
    return pd.DataFrame(made, columns=COLUMNS)


def knn(method, seed, value, readout="mean"):
    return (method, seed, "knn_top1", "knn", readout, value)


def columns_of(*rows):
    return measure(add_variants(frame(*rows)), "mean")


def test_gather_names_what_it_cannot_read(tmp_path):
    good = StageOutput(facts={"seconds": 1.0})
    for name in ("a/probe", "a/finetune", "b/probe"):
        good.write(tmp_path / name)
    (tmp_path / "a/finetune/facts.json").write_text("{oops")
    (tmp_path / "b/probe/arrays.npz").unlink()
    found = gather(tmp_path)
    assert [(stage.experiment, stage.task) for stage in found.stages] == [("a", "probe")]
    assert [line.partition(":")[0] for line in found.unreadable] == ["a/finetune", "b/probe"]
    assert str(tmp_path) not in " ".join(found.unreadable)


def test_gather_of_a_missing_folder_is_empty(tmp_path):
    found = gather(tmp_path / "nowhere")
    assert found.stages == ()
    assert list(collect_rows(found.stages).columns) == COLUMNS


def test_results_of_earlier_versions_are_the_same_encoders(tmp_path):
    full = "128x6/4, 4 heads, MLP 4, 32x32 px"
    for task, label in (("probe", "128x6/4"), ("finetune", full)):
        StageOutput(frame(knn("mae", 0, 1)).assign(encoder=label)).write(tmp_path / "a" / task)
    found = gather(tmp_path)
    assert {name for stage in found.stages for name in stage.output.rows["encoder"]} == {full}


def test_encoders_of_other_heads_have_anchors_of_their_own():
    rows = frame(
        *(knn("random_init", 0, 10.0), knn("mae", 0, 15.0)),
        *(knn("random_init", 0, 30.0), knn("mae", 0, 50.0)),
    )
    label = "128x6/4, {} heads, MLP 4, 32x32 px"
    rows["encoder"] = [label.format(heads) for heads in (4, 4, 8, 8)]
    (column,) = measure(add_variants(rows), "mean")
    found = {name: (cell.mean, cell.difference) for name, cell in column.cells.items()}
    assert found == {
        "random init 4 heads": (10.0, None),
        "random init 8 heads": (30.0, None),
        "MAE 4 heads": (15.0, 5.0),
        "MAE 8 heads": (50.0, 20.0),
    }


def test_the_anchor_measured_inside_two_experiments_counts_once(inputs):
    stages = gather(inputs.results_folder).stages
    rows = collect_rows(stages)
    written = pd.concat([stage.output.rows for stage in stages if len(stage.output.rows)])
    anchors = rows[(rows["method"] == "random_init") & (rows["metric"] == "knn_top1")]
    assert len(anchors) == 4  # 2 seeds x 2 readouts
    assert (written["method"] == "random_init").sum() > (rows["method"] == "random_init").sum()
    assert not rows.duplicated(["experiment", "protocol", "readout", "metric", "split"]).any()


def test_equal_folders_give_equal_rows(inputs):
    stages = gather(inputs.results_folder).stages
    pd.testing.assert_frame_equal(collect_rows(stages), collect_rows(stages[::-1]))


@pytest.mark.parametrize("values", [(1.0, 4.0), (31.0, 33.5, 30.2, 35.0)])
def test_the_interval_is_students(values):
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert half_width(values) == pytest.approx((interval.high - interval.low) / 2)


def test_the_interval_of_a_difference_is_welchs():
    a, b = (50.0, 53.0, 49.0), (30.0, 30.5)
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert difference_half_width(a, b) == pytest.approx((interval.high - interval.low) / 2)


def test_one_seed_has_no_interval():
    assert half_width([3.0]) is None
    assert difference_half_width([3.0], [1.0, 2.0]) is None
    assert difference_half_width([3.0, 3.0], [1.0, 1.0]) == 0.0


def test_cells_hold_means_and_differences_to_the_anchor():
    (column,) = columns_of(
        knn("random_init", 0, 30.0),
        knn("random_init", 1, 32.0),
        knn("mae", 0, 40),
        knn("mae", 1, 44),
    )
    cell = column.cells["MAE"]
    assert (cell.mean, cell.difference, cell.best) == (42.0, 11.0, True)
    assert column.cells["random init"].difference is None
    assert not column.cells["random init"].best


def test_a_seed_measured_twice_counts_once():
    rows = frame(knn("mae", 0, 40.0), knn("mae", 0, 42.0), knn("mae", 1, 50.0))
    rows["experiment"] = ["first", "second", "third"]
    (column,) = measure(add_variants(rows), "mean")
    assert column.cells["MAE"] == Cell((41.0, 50.0), seeds=(0, 1))


def test_a_column_shows_one_readout_for_all():
    rows = [knn("mae", 0, 40.0), knn("mae", 0, 70.0, "cls"), knn("cmae", 0, 60.0)]
    (column,) = columns_of(*rows)
    assert column.readout == "mean"
    assert {name: cell.mean for name, cell in column.cells.items()} == {"MAE": 40.0, "CMAE": 60.0}


def test_a_readout_that_was_not_measured_gives_way_to_the_commonest():
    rows = [knn("mae", 0, 1.0, "b"), knn("cmae", 0, 2.0, "b"), knn("cmae", 1, 2.0, "a")]
    (column,) = columns_of(*rows)
    assert column.readout == "b"


def test_segmentation_heads_are_columns_of_their_own():
    columns = columns_of(
        ("mae", 0, "miou", "linear", "patch", 20.0), ("mae", 0, "miou", "upernet", "patch", 30.0)
    )
    assert [column.task.title for column in columns] == ["mIoU linear", "mIoU UPerNet"]


def test_equal_means_have_no_best():
    (column,) = columns_of(knn("mae", 0, 40.0), knn("cmae", 0, 40.0))
    assert not any(cell.best for cell in column.cells.values())


def test_values_that_are_not_numbers_are_left_out():
    assert columns_of(knn("mae", 0, float("nan"))) == []


def test_variants_show_hash_and_encoder_only_where_they_differ():
    rows = frame(knn("mae", 0, 1), knn("mae", 1, 1), knn("cmae", 0, 1), knn("random_init", 0, 1))
    assert list(add_variants(rows)["variant"]) == ["MAE", "MAE", "CMAE", "random init"]
    hashed = rows.assign(config_hash=["a", "b", "a", "none"])
    assert list(add_variants(hashed)["variant"]) == ["MAE a", "MAE b", "CMAE", "random init"]
    sized = rows.assign(encoder=["small", "large", "small", "small"])
    assert add_variants(sized)["variant"].iloc[3] == "random init small"


def test_a_variant_is_compared_with_the_anchor_of_its_size():
    rows = frame(
        knn("random_init", 0, 10.0),
        knn("mae", 0, 15.0),
        knn("random_init", 0, 20.0),
        knn("mae", 0, 26),
    ).assign(encoder=["small", "small", "large", "large"])
    (column,) = measure(add_variants(rows), "mean")
    assert column.cells["MAE small"].difference == 5.0
    assert column.cells["MAE large"].difference == 6.0


def test_the_anchor_comes_first_and_unknown_methods_last():
    rows = frame(*(knn(name, 0, 1.0) for name in ("zebra", "cmae", "random_init", "mae", "aurora")))
    order = variant_order(add_variants(rows))
    assert order == ["random init", "MAE", "CMAE", "aurora", "zebra"]


def test_each_data_set_has_its_table():
    rows = frame(knn("mae", 0, 1.0), knn("mae", 0, 2.0), knn("cmae", 0, 2.0), knn("cmae", 1, 2.0))
    rows["data"] = ["a", "b", "b", "b"]
    first, second = main_tables(add_variants(rows), "mean")
    assert (first.data, first.variants) == ("a", ("MAE",))
    assert (second.seeds("CMAE"), second.seeds("MAE"), second.seeds("nobody")) == (2, 1, 0)


def test_intervals_on_the_page_come_from_all_seeds(inputs):
    rows = add_variants(collect_rows(gather(inputs.results_folder).stages))
    (table,) = main_tables(rows, "mean")
    cell = table.columns[0].cells["CMAE"]
    assert cell.values == (55.0, 56.5)
    assert cell.interval == pytest.approx(
        stats.t.ppf(0.975, 1) * np.std([55, 56.5], ddof=1) / 2**0.5
    )


def test_differences_to_the_anchor_are_paired_by_seed():
    rows = frame(
        *(knn("random_init", seed, 20.0 + 10 * seed) for seed in (0, 1, 2)),
        *(knn("mae", seed, value) for seed, value in ((2, 51.0), (1, 42.0), (7, 90.0))),
    )
    (column,) = measure(add_variants(rows), "mean")
    cell = column.cells["MAE"]
    assert cell.paired == (12.0, 11.0)
    assert cell.difference == 11.5  # of the seeds that both have
    assert cell.margin == pytest.approx(half_width([12.0, 11.0]))


def test_without_seeds_in_common_the_margin_is_welchs():
    cell = Cell((50.0, 51.0), (30.0, 33.0))
    assert cell.margin == difference_half_width(cell.values, cell.anchor)
    assert Cell((50.0,), (30.0,)).margin is None
