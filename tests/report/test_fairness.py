import pandas as pd
import pytest

from contramask.report import fairness
from contramask.report.fairness import Cost
from contramask.report.intervals import Cell
from contramask.report.tables import TASKS, MainTable, Measured, Stage
from contramask.results import StageOutput

KNN = next(task for task in TASKS if task.metric == "knn_top1")


def cost(variant, epochs=10.0, gflop=1.0, images=1000.0):
    return Cost(variant, epochs, epochs * images, gflop, 60.0, None)


def scores(**cells):
    return MainTable("data", (Measured(KNN, "val", "knn", "mean", cells),), tuple(cells))


def pretrained(experiment, method, **facts):
    rows = [(m, v) for m, v in (("gflop_per_image", 2.0), ("seconds", 30.0))]
    frame = pd.DataFrame(rows, columns=["metric", "value"])
    frame = frame.assign(protocol="pretrain", variant=method, experiment=experiment)
    return frame, Stage(experiment, "pretrain", StageOutput(facts=facts))


def test_cost_is_made_of_rows_and_plan():
    plan = {"epochs": 5, "images": 100}
    first = pretrained("a-s0", "MAE", plan=plan, seconds=3600.0, power_watts=250)
    second = pretrained("b-s0", "CMAE", plan={"epochs": 5})
    rows = pd.concat([first[0], second[0]])
    variants = {"a-s0": "MAE", "b-s0": "CMAE"}
    mae, cmae = fairness.pretraining_costs(
        rows, [first[1], second[1]], variants, ["random init", "MAE", "CMAE"]
    )
    assert (mae.images, mae.total, mae.seconds, mae.energy_kwh) == (500, 1000, 30, 0.25)
    assert (cmae.images, cmae.total, cmae.energy_kwh) == (None, None, None)
    table = fairness.cost_table([mae, cmae])
    assert table is not None
    assert table.columns[4] == "TFLOP in all"
    assert table.columns[-1] == "kWh, estimated"
    assert table.rows[0] == ("MAE", "5", "500", "2.000", "1.0", "30", "5", "0.250")
    assert table.rows[1][2] == "\N{EN DASH}"
    assert fairness.cost_table([cmae]) is None


@pytest.mark.parametrize(
    ("gflop", "unit"), [(0.5, "GFLOP"), (999, "GFLOP"), (1000, "TFLOP"), (3e6, "PFLOP")]
)
def test_units_keep_numbers_short(gflop, unit):
    assert fairness.unit_of([0.1, gflop]) == unit


def test_equal_epochs_hides_what_an_epoch_costs():
    costs = [cost("MAE"), cost("CMAE", gflop=2.0)]
    said = " ".join(fairness.remarks(costs))
    assert "CMAE, has spent 2.0 times the compute of MAE" in said
    assert "MAE with pretrain.epochs = 20 would cost as much as CMAE" in said
    assert "Energy is not known" in said
    table = fairness.cost_table(costs)
    assert table is not None
    assert [row[6] for row in table.rows] == ["20", "10"]
    assert table.columns[6] == "Epochs for the compute of CMAE"


def test_variants_of_equal_compute_are_compared():
    costs = [cost("MAE short"), cost("MAE long", epochs=20.0), cost("CMAE", gflop=2.05)]
    by_epochs, by_compute = fairness.equal_groups(costs)
    assert [[c.variant for c in group] for group in by_epochs] == [["MAE short", "CMAE"]]
    assert [[c.variant for c in group] for group in by_compute] == [["MAE long", "CMAE"]]
    cells = {"MAE short": Cell((20.0,)), "MAE long": Cell((30.0, 32.0)), "CMAE": Cell((40.0,))}
    first, second = fairness.equal_tables(costs, scores(**cells))
    assert first.caption == "At equal epochs: 10 (percent)"
    assert second.caption.startswith("At equal compute, within 10 %: 20.0 to 20.5 TFLOP")
    assert second.rows == (("MAE long", "31.0 ± 12.7"), ("CMAE", "40.0"))
    assert "No two variants" not in " ".join(fairness.remarks(costs))


def test_scores_are_drawn_where_both_are_known():
    costs = [cost("MAE"), cost("CMAE", gflop=2.0), cost("ConMIM")]
    table = scores(**{"random init": Cell((15.0,)), "MAE": Cell((20.0,)), "CMAE": Cell((40.0,))})
    (panel,) = fairness.score_panels(costs, table, ["random init", "MAE", "CMAE"])
    assert {mark.text for mark in panel.marks} == {"MAE", "CMAE"}
    assert panel.guide_text == "random init 15.0"
    assert fairness.score_panels([], table, []) == []


def test_differences_to_a_baseline_are_paired_by_seed():
    cells = {
        "random init": Cell((1.0,), seeds=(0,)),
        "MAE": Cell((50.0, 70.0, 60.0), seeds=(0, 1, 2)),
        "CMAE": Cell((72.0, 51.0), seeds=(1, 0)),
        "ConMIM": Cell((9.0,), seeds=(7,)),
    }
    table = fairness.baseline_table(scores(**cells), "mae")
    assert table is not None
    assert table.rows[0] == ("CMAE", "+1.5 ± 6.4")  # unpaired it would be some 100
    assert table.rows[1] == ("ConMIM", "no seed in common")
    assert fairness.baseline_table(scores(**cells), "supmim") is None
    assert fairness.baseline_table(scores(MAE=Cell((1.0,), seeds=(0,))), "mae") is None
