from contramask.report import fairness
from contramask.report.intervals import Cell
from contramask.report.spending import Cost, cost_table
from contramask.report.tables import TASKS, MainTable, Measured

KNN = next(task for task in TASKS if task.metric == "knn_top1")


def cost(variant, epochs=10.0, gflop=1.0, images=1000.0, tokenizer=0.0):
    return Cost(variant, epochs, epochs * images, gflop, 60.0, None, tokenizer)


def scores(**cells):
    return MainTable("data", (Measured(KNN, "val", "knn", "mean", cells),), tuple(cells))


def test_equal_epochs_hides_what_an_epoch_costs():
    costs = [cost("MAE"), cost("CMAE", gflop=2.0)]
    said = " ".join(fairness.remarks(costs))
    assert "CMAE, has spent 2.0 times the compute of MAE" in said
    assert "MAE with pretrain.epochs = 20 would cost as much as CMAE" in said
    assert "Energy is not known" in said
    table = cost_table(costs)
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


def test_a_tokenizer_is_paid_for_once():
    costs = [cost("SupMIM", tokenizer=4000.0), cost("CMAE", gflop=2.0)]
    assert fairness.equal_groups(costs)[1] == []  # 14 and 20 TFLOP
    assert "SupMIM with pretrain.epochs = 16 would cost as much" in " ".join(
        fairness.remarks(costs)
    )
    costs[0] = cost("SupMIM", tokenizer=10_000.0)
    assert [c.variant for c in fairness.equal_groups(costs)[1][0]] == ["SupMIM", "CMAE"]
    (points,) = fairness.score_panels(
        costs, scores(**{"SupMIM": Cell((20.0,)), "CMAE": Cell((40.0,))}), ["SupMIM", "CMAE"]
    )
    assert "SupMIM reaches 20.0 % with 20 TFLOP" in points.alt


def test_a_tokenizer_of_unknown_cost_is_said():
    said = " ".join(fairness.remarks([cost("SupMIM", tokenizer=None), cost("MAE")]))
    assert "The compute of SupMIM is counted without the tokenizer" in said
    assert "without the tokenizer" not in " ".join(fairness.remarks([cost("MAE")]))


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
