"""Probing a frozen encoder: rows, arrays and facts, and what it does without labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.results import COLUMNS, StageOutput
from contramask.tracker import NullTracker
from contramask.train.device import LaunchConfig
from contramask.transfer import feature_cache, readout
from contramask.transfer.attentive import AttentiveConfig
from contramask.transfer.dense_probe import DenseProbeConfig
from contramask.transfer.pictured import PicturesConfig, one_of_each
from contramask.transfer.probe import run_probe
from contramask.transfer.probe_config import ProbeConfig
from contramask.transfer.strict_linear import StrictLinearConfig
from contramask.typed import ConfigError, parse, to_plain

FP32 = LaunchConfig(device="cpu", precision="fp32")
SHORT = ProbeConfig(
    k=5,
    weight_decays=(1e-2, 1e-1),
    shots=(2,),
    label_shares=(),
    low_shot_splits=2,
    attentive=None,
    pictures=None,
)
ALL = replace(
    SHORT,
    blocks=(1,),
    attentive=AttentiveConfig(poolings=("ep", "cross"), epochs=1, pictures=3, queries=4),
    strict_linear=StrictLinearConfig(epochs=1, warmup_epochs=0, batch_size=48),
    dense=DenseProbeConfig(train_images=20, val_images=10, k=(1,), weight_decays=(1e-2,)),
    pictures=PicturesConfig(looks=3, queries=2, neighbours=4),
)


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
    run_probe(tiny_bundle, tiny_store, ALL, FP32, tracker).write(folder)
    output = StageOutput.read(folder)
    rows = output.rows
    assert rows.columns.tolist() == COLUMNS
    assert not rows.duplicated(["method", "split", "protocol", "readout", "metric"]).any()
    assert set(rows["method"]) == {"cmae", "random_init"}
    readouts = {"mean", "cls", "cls+mean", "block1-cls", "block1-mean"}
    assert set(rows["readout"]) == readouts | {"patch"}
    for protocol, metric in (
        *(("knn", "knn_top1"), ("linear", "linear_top1"), ("2-shot", "low_shot_top1")),
        *(("retrieval", "map_at_r"), ("retrieval leave-one-out", "recall_at_1")),
        *(("spectrum", "rankme"), ("spectrum", "alignment")),
    ):
        chosen = rows[(rows["protocol"] == protocol) & (rows["metric"] == metric)]
        assert set(chosen["readout"]) == readouts
        assert len(chosen) == 2 * len(readouts)
    patch = rows[rows["readout"] == "patch"].groupby("protocol")["metric"].agg(set).to_dict()
    dense = {"miou", "macc", "aacc", "fwiou"}
    assert patch == {
        "attentive ep": {"attentive_top1"},
        "attentive cross": {"attentive_top1"},
        "dense_linear": dense,
        "dense_knn": dense,
    }
    assert set(rows[rows["protocol"] == "linear MAE"]["readout"]) == {"cls", "mean"}
    percent = rows[rows["protocol"] != "spectrum"]
    assert percent["value"].between(0, 100).all()
    experiment = rows.set_index("method")["experiment"].to_dict()
    assert experiment == {"cmae": "cmae-0000-s3", "random_init": "random_init-s3"}
    _check_arrays(output, tiny_store)
    _check_facts(output, tiny_store)
    for row in rows.to_dict("records"):
        anchor = "random_init/" if row["method"] == "random_init" else ""
        name = f"probe/{anchor}{row['readout']}/{row['protocol']}/{row['metric']}"
        assert tracker.metrics.pop(name) == row["value"]
    # What is left are the training curves of both encoders' probes.
    curves = ("probe/attentive/", "probe/linear-mae/")
    assert all(name.startswith(curves) for name in tracker.metrics)
    left = set(tracker.metrics)
    assert {"probe/linear-mae/loss", "probe/linear-mae/random_init/loss"} <= left


def _check_arrays(output: StageOutput, store: Store) -> None:
    for method in ("cmae", "random_init"):
        assert output.arrays[f"{method}/features"].shape == (48, 32)
        assert output.arrays[f"{method}/features"].dtype == np.float16
        assert np.array_equal(output.arrays[f"{method}/labels"], store["val"].labels)
        assert output.arrays[f"{method}/attention_ep"].shape == (3, 4, 4, 4)
        assert output.arrays[f"{method}/attention_cross"].shape == (3, 1, 4, 4)
        rows = one_of_each(store["val"].labels, 3)
        shown = output.arrays[f"{method}/attention_images"]
        assert np.array_equal(shown, store["val"].images[rows])
        assert output.arrays[f"{method}/look_attention"].shape == (3, 2, 4, 4)
        assert output.arrays[f"{method}/look_colours"].shape == (3, 4, 4, 3)
        assert np.array_equal(output.arrays[f"{method}/look_images"], shown)
        assert output.arrays[f"{method}/near_images"].shape[:2] == (2, 4)
        assert output.tables[f"{method}-near"]["rank"].tolist() == [1, 2, 3, 4] * 2


def _check_facts(output: StageOutput, store: Store) -> None:
    assert output.facts["config"] == to_plain(ALL)
    assert (output.facts["config"]["k"], output.facts["config"]["temperature"]) == (5, 0.07)
    assert output.facts["classes"] == store.manifest["classes"]
    assert output.facts["seconds"] >= 0
    assert output.facts["versions"]["torch"]
    assert output.facts["command"]
    chosen = output.facts["chosen"]["cmae"]
    assert chosen["mean"]["linear_weight_decay"] in ALL.weight_decays
    assert chosen["attentive ep"]["train_images"] == 96
    assert chosen["attentive ep"]["val_images"] == 48


def test_every_image_is_read_once_for_all_protocols(
    tiny_store: Store,
    tiny_bundle: EncoderBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = []
    original = feature_cache.feature_batches

    def counted(bundle: EncoderBundle, images: Any, *rest: Any, **named: Any) -> object:
        passes.append((bundle.manifest["method"], len(images)))
        return original(bundle, images, *rest, **named)

    monkeypatch.setattr(feature_cache, "feature_batches", counted)
    config = replace(ALL, dense=None, strict_linear=None)
    first = run_probe(tiny_bundle, tiny_store, config, FP32, NullTracker(), tmp_path)
    assert passes == [("cmae", 96), ("cmae", 48), ("random_init", 96), ("random_init", 48)]
    again = run_probe(tiny_bundle, tiny_store, config, FP32, NullTracker(), tmp_path)
    assert len(passes) == 4
    assert again.rows["value"].tolist() == first.rows["value"].tolist()


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
    accuracies = output.rows[output.rows["metric"].str.endswith("_top1")]
    assert accuracies["value"].min() > 90
    assert len(output.arrays["cmae/labels"]) == 16
    assert len(output.arrays["cmae/features"]) == 16


def test_val_labels_choose_nothing(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    original = readout.linear_scores

    def watched(*values: object) -> object:
        scores, decay = original(*values)  # type: ignore[arg-type]
        given.append((decay, scores))
        return scores, decay

    monkeypatch.setattr(readout, "linear_scores", watched)
    config = replace(SHORT, anchor=False)
    first = run_probe(tiny_bundle, tiny_store, config, FP32, NullTracker())
    truth = tiny_store["val"].labels
    monkeypatch.setattr(tiny_store["val"], "labels", (truth + 1) % 10)
    second = run_probe(tiny_bundle, tiny_store, config, FP32, NullTracker())
    assert first.rows["value"].tolist() != second.rows["value"].tolist()
    for (decay, scores), (other_decay, other_scores) in zip(given[:3], given[3:], strict=True):
        assert decay == other_decay
        assert torch.equal(scores, other_scores)


def test_it_is_skipped_without_val_images(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_store, "splits", {"train": tiny_store["train"]})
    output = run_probe(tiny_bundle, tiny_store, SHORT, FP32, NullTracker())
    assert output.facts == {"stage": "probe", "skipped": "there are no validation images"}


def test_the_centre_crop_reaches_every_readout(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    whole, middle = (
        run_probe(
            *(tiny_bundle, tiny_store, replace(SHORT, anchor=False, eval_crop=share)),
            *(FP32, NullTracker()),
        )
        for share in (1.0, 0.5)
    )
    wanted = (whole.rows["protocol"] == "spectrum") & (whole.rows["metric"] != "alignment")
    values = [output.rows.loc[wanted, "value"].to_numpy(dtype=float) for output in (whole, middle)]
    assert (np.abs(values[0] - values[1]) > 1e-6).all()
    assert middle.facts["config"]["eval_crop"] == 0.5


def test_dense_probes_need_no_labels(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in tiny_store.splits.values():
        monkeypatch.setattr(split, "labels", np.full(len(split), -1))
    output = run_probe(tiny_bundle, tiny_store, ALL, FP32, NullTracker())
    assert set(output.rows["protocol"]) == {"spectrum", "dense_linear", "dense_knn"}


def test_dense_probes_are_left_out_without_masks(
    shade_store: Store, shade_bundle: EncoderBundle
) -> None:
    config = replace(SHORT, dense=DenseProbeConfig(train_images=10, val_images=5), anchor=False)
    output = run_probe(shade_bundle, shade_store, config, FP32, NullTracker())
    assert "patch" not in set(output.rows["readout"])


def test_a_broken_encoder_is_named(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    with torch.no_grad():
        tiny_bundle.encoder.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match=r"features of cmae .* are not finite"):
        run_probe(tiny_bundle, tiny_store, SHORT, FP32, NullTracker())


@pytest.mark.parametrize(
    "values",
    [
        *({"weight_decays": []}, {"weight_decays": [-1.0]}, {"k": 0}, {"temperature": 0}),
        *({"shots": [0]}, {"label_shares": [1.5]}, {"readouts": []}, {"readouts": ["max"]}),
        *({"blocks": [0]}, {"galleries": ["test"]}, {"cache_megabytes": -1}),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"probe.{next(iter(values))}"):
        parse(ProbeConfig, values, "probe")


def test_nested_settings_are_switched_on_and_checked() -> None:
    typed = parse(
        ProbeConfig, {"attentive": None, "strict_linear": {}, "dense": {"k": [3]}}, "probe"
    )
    assert typed.attentive is None
    assert typed.strict_linear == StrictLinearConfig()
    assert typed.dense == DenseProbeConfig(k=(3,))
    with pytest.raises(ConfigError) as error:
        parse(ProbeConfig, {"attentive": {"epohcs": 3}, "dense": {"val_images": 0}}, "probe")
    assert "probe.attentive.epohcs: there is no such key; did you mean `epochs`?" in str(
        error.value
    )
    assert "probe.dense.val_images: given 0" in str(error.value)
