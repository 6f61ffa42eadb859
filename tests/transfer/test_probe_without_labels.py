"""What a probe measures on images without labels: all that needs none."""

from dataclasses import replace

import numpy as np
import pytest

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.tracker import NullTracker
from contramask.train.device import LaunchConfig
from contramask.transfer.pictured import PicturesConfig
from contramask.transfer.probe import run_probe
from contramask.transfer.probe_config import ProbeConfig

FP32 = LaunchConfig(device="cpu", precision="fp32")
SHORT = ProbeConfig(k=5, shots=(2,), label_shares=(), low_shot_splits=2, pictures=None)
ALL = replace(SHORT, blocks=(1,), pictures=PicturesConfig(looks=3, queries=2, neighbours=4))
SHAPE = {"rankme", "feature_std", "uniformity", "alignment"}


def test_without_labels_what_needs_none_is_measured(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny_store.manifest, "classes", [])
    for split in tiny_store.splits.values():
        monkeypatch.setattr(split, "labels", np.full(len(split), -1))
    output = run_probe(tiny_bundle, tiny_store, ALL, FP32, NullTracker())
    rows = output.rows
    assert output.facts["without_labels"] == "the images have no class labels"
    assert "skipped" not in output.facts
    assert set(rows["protocol"]) == {"spectrum"}
    shape = rows.groupby(["method", "readout"])["metric"].agg(set)
    assert len(shape) == 2 * 5
    assert all(metrics == SHAPE for metrics in shape)
    assert np.isfinite(rows["value"].to_numpy(dtype=float)).all()
    count = len(tiny_store["val"])
    for method in ("cmae", "random_init"):
        assert output.arrays[f"{method}/features"].shape == (count, 32)
        assert (output.arrays[f"{method}/labels"] == -1).all()
        assert output.arrays[f"{method}/look_attention"].shape == (3, 2, 4, 4)
        assert output.arrays[f"{method}/near_images"].shape[:2] == (2, 4)
        assert not output.tables[f"{method}-near"]["same"].any()
        assert f"{method}/attention_ep" not in output.arrays


def test_labels_change_nothing_of_what_needs_none(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SHORT, attentive=None, anchor=False)
    with_labels = run_probe(tiny_bundle, tiny_store, config, FP32, NullTracker()).rows
    for split in tiny_store.splits.values():
        monkeypatch.setattr(split, "labels", np.full(len(split), -1))
    output = run_probe(tiny_bundle, tiny_store, config, FP32, NullTracker())
    assert output.facts["without_labels"] == "no training image has a class label"
    shape = with_labels[with_labels["protocol"] == "spectrum"]
    assert output.rows["value"].tolist() == pytest.approx(shape["value"].tolist())
