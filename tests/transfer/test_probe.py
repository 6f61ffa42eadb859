"""Probing a frozen encoder: rows, arrays and facts, and what it does without labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.results import COLUMNS, StageOutput
from contramask.tracker import NullTracker
from contramask.train.device import LaunchConfig
from contramask.transfer import probe
from contramask.transfer.probe import ProbeConfig, run_probe
from contramask.typed import ConfigError, parse

FP32 = LaunchConfig(device="cpu", precision="fp32")
SHORT = ProbeConfig(k=5, weight_decays=(1e-2, 1e-1), low_shot_splits=2)


class Recorder(NullTracker):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def log(self, metrics: object, step: int) -> None:
        self.metrics.update(metrics)  # type: ignore[call-overload]


def test_rows_arrays_and_facts(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tracker = Recorder()
    folder = tmp_path_factory.mktemp("probe")
    run_probe(tiny_bundle, tiny_store, SHORT, FP32, tracker).write(folder)
    output = StageOutput.read(folder)
    rows = output.rows
    assert rows.columns.tolist() == COLUMNS
    assert len(rows) == 2 * 2 * 3  # encoders, readouts, measurements
    assert set(rows["method"]) == {"cmae", "random_init"}
    assert set(rows["readout"]) == {"cls", "mean"}
    named = set(zip(rows["protocol"], rows["metric"], strict=True))
    assert named == {("knn", "knn_top1"), ("linear", "linear_top1"), ("5-shot", "low_shot_top1")}
    assert rows["value"].between(0, 100).all()
    assert set(rows["split"]) == {"val"}
    experiment = rows.set_index("method")["experiment"].to_dict()
    assert experiment == {"cmae": "cmae-0000-s3", "random_init": "random_init-s3"}
    truth = tiny_store["val"].labels
    for method in ("cmae", "random_init"):
        assert output.arrays[f"{method}/features"].shape == (48, 32)
        assert output.arrays[f"{method}/features"].dtype == np.float16
        assert np.array_equal(output.arrays[f"{method}/labels"], truth)
    assert output.facts["config"]["k"] == 5
    assert output.facts["config"]["temperature"] == 0.07
    assert output.facts["classes"] == tiny_store.manifest["classes"]
    assert output.facts["seconds"] >= 0
    own = rows[(rows["method"] == "cmae") & (rows["readout"] == "mean")].set_index("metric")
    for metric in ("knn_top1", "linear_top1", "low_shot_top1"):
        assert tracker.metrics[f"probe/mean/{metric}"] == own["value"][metric]
    assert len(tracker.metrics) == 6  # the anchor's are not the run's own


def test_equal_inputs_give_equal_numbers(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    outputs = [
        run_probe(tiny_bundle, tiny_store, replace(SHORT, anchor=False), FP32, NullTracker())
        for _ in range(2)
    ]
    assert set(outputs[0].rows["method"]) == {"cmae"}
    assert outputs[0].rows["value"].tolist() == outputs[1].rows["value"].tolist()


def test_what_is_easy_is_easy_and_the_unlabelled_are_left_out(
    shade_store: Store, shade_bundle: EncoderBundle
) -> None:
    output = run_probe(shade_bundle, shade_store, SHORT, FP32, NullTracker())
    assert output.rows["value"].min() > 90
    assert len(output.arrays["cmae/labels"]) == 16
    assert len(output.arrays["cmae/features"]) == 16


def test_val_labels_choose_nothing(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    original = probe.linear_scores

    def watched(*values: object) -> object:
        scores, decay = original(*values)  # type: ignore[arg-type]
        given.append((decay, scores))
        return scores, decay

    monkeypatch.setattr(probe, "linear_scores", watched)
    config = replace(SHORT, anchor=False)
    first = run_probe(tiny_bundle, tiny_store, config, FP32, NullTracker())
    truth = tiny_store["val"].labels
    monkeypatch.setattr(tiny_store["val"], "labels", (truth + 1) % 10)
    second = run_probe(tiny_bundle, tiny_store, config, FP32, NullTracker())
    assert first.rows["value"].tolist() != second.rows["value"].tolist()
    for (decay, scores), (other_decay, other_scores) in zip(given[:2], given[2:], strict=True):
        assert decay == other_decay
        assert torch.equal(scores, other_scores)


def test_it_is_skipped_without_labels_or_val_images(
    plain_store: Store,
    tiny_store: Store,
    tiny_bundle: EncoderBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = run_probe(tiny_bundle, plain_store, SHORT, FP32, NullTracker())
    assert output.rows.empty
    assert output.facts == {"stage": "probe", "skipped": "the images have no class labels"}
    train_only = {"train": tiny_store["train"]}
    monkeypatch.setattr(tiny_store, "splits", train_only)
    output = run_probe(tiny_bundle, tiny_store, SHORT, FP32, NullTracker())
    assert output.facts["skipped"] == "there are no validation images with a class label"


@pytest.mark.parametrize(
    "values", [{"weight_decays": []}, {"weight_decays": [-1.0]}, {"k": 0}, {"temperature": 0}]
)
def test_impossible_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"probe.{next(iter(values))}"):
        parse(ProbeConfig, values, "probe")
