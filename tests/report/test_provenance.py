import pandas as pd

from contramask.report.provenance import (
    experiment_table,
    plain_facts,
    protocol_lines,
    revision_in_words,
    run_links,
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


def test_stages_follow_the_order_of_work_and_tell_their_machine():
    table = stage_table(
        [
            stage("a", "detection", skipped="no objects"),
            stage("a", "pretrain", plan={"seconds": 12.34, "machine": "a laptop"}),
        ]
    )
    assert table.rows[0] == ("a", "Pre-training", "12.3", "a laptop")
    assert table.rows[1] == ("a", "Object detection", "\N{EN DASH}", "not run")


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


def test_runs_are_linked_only_on_the_web():
    stages = [
        stage("a", "pretrain", run_url="https://host/run", run_id="17"),
        stage("a", "probe", run_id="18"),
        stage("a", "finetune", run_url="javascript:alert(1)"),
        stage("a", "detection"),
    ]
    assert run_links(stages) == [
        ("a/pretrain", "17", "https://host/run"),
        ("a/probe", "18", ""),
        ("a/finetune", "javascript:alert(1)", ""),
    ]
