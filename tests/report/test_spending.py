import pandas as pd
import pytest

from contramask.report import spending
from contramask.report.spending import Cost
from contramask.report.tables import Stage
from contramask.results import StageOutput

PLAN = {"epochs": 5, "images": 110, "steps": 25, "batch size": 20}


def pretrained(experiment, method, **facts):
    rows = [(m, v) for m, v in (("gflop_per_image", 2.0), ("seconds", 30.0))]
    frame = pd.DataFrame(rows, columns=["metric", "value"])
    frame = frame.assign(protocol="pretrain", variant=method, experiment=experiment)
    return frame, Stage(experiment, "pretrain", StageOutput(facts=facts))


def tokens_cost(*stages, **facts):
    frame, stage = pretrained("s-s0", "SupMIM", plan=PLAN, **facts)
    (found,) = spending.pretraining_costs(frame, [stage, *stages], {"s-s0": "SupMIM"}, ["SupMIM"])
    return found


def test_cost_is_made_of_rows_and_plan():
    first = pretrained("a-s0", "MAE", plan=PLAN, seconds=3600.0, power_watts=250)
    second = pretrained("b-s0", "CMAE", plan={"epochs": 5})
    rows = pd.concat([first[0], second[0]])
    variants = {"a-s0": "MAE", "b-s0": "CMAE"}
    mae, cmae = spending.pretraining_costs(
        rows, [first[1], second[1]], variants, ["random init", "MAE", "CMAE"]
    )
    # Five of the twenty-five batches would hold ten images; they are dropped.
    assert (mae.images, mae.total, mae.seconds, mae.energy_kwh) == (500, 1000, 30, 0.25)
    assert (cmae.images, cmae.total, cmae.energy_kwh) == (None, None, None)
    table = spending.cost_table([mae, cmae])
    assert table is not None
    assert table.columns[4] == "TFLOP in all"
    assert table.columns[-1] == "kWh, estimated"
    assert table.rows[0] == ("MAE", "5", "500", "2.000", "1.0", "30", "5", "0.250")
    assert table.rows[1][2] == "\N{EN DASH}"
    assert spending.cost_table([cmae]) is None


@pytest.mark.parametrize(
    ("gflop", "unit"), [(0.5, "GFLOP"), (999, "GFLOP"), (1000, "TFLOP"), (3e6, "PFLOP")]
)
def test_units_keep_numbers_short(gflop, unit):
    assert spending.unit_of([0.1, gflop]) == unit


def test_the_tokenizer_counts():
    used = {"ingredients": {"tokenizer": "0f"}}
    assert tokens_cost(ingredients={}).total == 1000
    assert tokens_cost(**used, tokenizer_tflop=0.5).total == 1500
    # An older pre-training did not note it; its tokenizer's own stage did.
    plan = {"steps": 10, "batch size": 20, "GFLOP per image": 3.0}
    stage = Stage("s-s0", "tokenizer", StageOutput(facts={"plan": plan}))
    assert tokens_cost(stage, **used).total == 1600
    other = Stage("other-s0", "tokenizer", StageOutput(facts={"plan": plan}))
    for nothing in ((), (other,)):
        assert tokens_cost(*nothing, **used).tokenizer is None
        assert tokens_cost(*nothing, **used).total == 1000


def test_the_table_says_what_the_tokenizer_took():
    supmim = Cost("SupMIM", 10.0, 1000.0, 1.0, 60.0, None, 500.0)
    mae = Cost("MAE", 10.0, 1000.0, 3.0, 60.0, None)
    unknown = Cost("SupMIM old", 10.0, 1000.0, 1.0, 60.0, None, None)
    table = spending.cost_table([mae, supmim, unknown])
    assert table is not None
    assert table.columns[4:6] == ("TFLOP in all", "of it for the tokenizer")
    assert [row[4:6] for row in table.rows] == [
        *(("3.0", "0.0"), ("1.5", "0.5"), ("1.0", "\N{EN DASH}")),
    ]
    assert [row[7] for row in table.rows] == ["10", "25", "30"]
