import pandas as pd

from contramask.report.provenance import (
    experiment_table,
    plain_facts,
    protocol_lines,
    revision_in_words,
    stage_table,
)
from contramask.report.tables import Stage
from contramask.results import COLUMNS, StageOutput


def stage(experiment, task, **facts):
    return Stage(experiment, task, StageOutput(facts=facts))


def test_settings_are_cut_to_those_that_tell_how_it_was_measured():
    config = {"k": 20, "anchor": True, "limit": None, "tune": {"epochs": 4, "lr": 0.1}}
    ((_, text),) = protocol_lines([stage("a", "detection", config=config)])
    assert text == "k = 20, tune.epochs = 4."


def test_one_row_an_experiment():
    rows = pd.DataFrame([dict.fromkeys(COLUMNS, "x")] * 2).assign(code_revision=["b", "a"])
    table = experiment_table(rows)
    assert table.columns[0] == "experiment"
    assert table.rows == (("x", "x", "x", "x", "x", "a, b", "x"),)


def test_settings_that_differ_between_experiments_are_called_out():
    stages = [stage(name, "probe", config={"k": k}) for name, k in (("a", 20), ("b", 20), ("c", 5))]
    ((title, text),) = protocol_lines(stages)
    assert title.startswith("Frozen features")
    assert text == "k = 20. Measured with other settings, so not comparable: c."


def test_settings_that_change_no_number_may_differ():
    first = {"k": 20, "anchor": True, "attentive": {"epochs": 4, "pictures": 6}}
    second = {"k": 20, "anchor": False, "attentive": {"epochs": 4, "pictures": 8}}
    configs = (("a", first), ("b", second))
    ((_, text),) = protocol_lines([stage(name, "probe", config=c) for name, c in configs])
    assert "not comparable" not in text


def test_stages_follow_the_order_of_work_and_tell_their_machine():
    table = stage_table(
        [
            stage("a", "detection", skipped="no objects"),
            stage("a", "pretrain", plan={"seconds": 12.34, "machine": "a laptop"}),
        ]
    )
    assert table.rows[0] == ("a", "Pre-training", "12.3", "a laptop")
    assert table.rows[1] == ("a", "Object detection", "\N{EN DASH}", "not run")


def test_a_stage_links_to_its_run_in_the_logbook():
    link = {"run_id": "<5f>", "url": "https://logs/#/experiments/1/runs/5f?a=1&b=2"}
    table = stage_table(
        [
            stage("a", "pretrain", mlflow=link),
            stage("a", "probe", mlflow={"run_id": "6f"}),
            stage("a", "finetune", mlflow={"run_id": "7f", "url": "javascript:alert(1)"}),
        ]
    )
    assert table.columns[-1] == "MLflow run"
    assert [row[-1] for row in table.rows] == [
        '<a href="https://logs/#/experiments/1/runs/5f?a=1&amp;b=2" rel="noreferrer">'
        "&lt;5f&gt;</a>",
        "6f",
        "7f",
    ]


def test_equal_facts_are_told_once():
    stages = [stage(name, "pretrain", versions={"torch": "2"}) for name in "ab"]
    ((where, text),) = plain_facts(stages, "versions")
    assert where == "a/pretrain, b/pretrain"
    assert text == "torch 2"
    ((_, text),) = plain_facts([stage("a", "probe", config={"k": {"l": 1}})], "config")
    assert '"l": 1' in text


def test_local_changes_are_told_in_words():
    assert revision_in_words("abc123+") == "abc123 with local changes"
    assert revision_in_words("abc123") == "abc123"
