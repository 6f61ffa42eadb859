"""Evaluations that are stopped in the middle go on there and end as if nobody had stopped them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.models.mask_rcnn import DetectorConfig
from contramask.models.upernet import UPerNetConfig
from contramask.results import StageOutput
from contramask.tracker import NullTracker
from contramask.train import loop
from contramask.train.device import LaunchConfig
from contramask.train.leftovers import forget
from contramask.transfer.attentive import AttentiveConfig
from contramask.transfer.detect import DetectionConfig, DetectorTune, run_detection
from contramask.transfer.finetune import run_finetune
from contramask.transfer.finetune_config import FinetuneConfig
from contramask.transfer.jitter import JitterConfig
from contramask.transfer.probe import run_probe
from contramask.transfer.probe_config import ProbeConfig
from contramask.transfer.segment import run_segmentation
from contramask.transfer.segment_config import LinearTune, SegmentationConfig, UPerNetTune
from contramask.transfer.strict_linear import StrictLinearConfig

FP32 = LaunchConfig(device="cpu", precision="fp32")
JITTER = JitterConfig(flip=0.5, scale=(0.8, 1.2))
FINETUNE = FinetuneConfig(
    epochs=2, batch_size=32, warmup_epochs=1, random_erasing=1.0, ema=0.9, log_every=1
)
SEGMENTATION = SegmentationConfig(
    train_limit=48,
    val_limit=16,
    linear=LinearTune(epochs=2, batch_size=16),
    upernet=UPerNetTune(epochs=2, batch_size=16, drop_path=0.1),
    net=UPerNetConfig(channels=8, aux_channels=8),
    jitter=JITTER,
    pictures=1,
    anchor=False,
)
DETECTION = DetectionConfig(
    train_limit=16,
    val_limit=4,
    tune=DetectorTune(epochs=2, batch_size=8, drop_path=0.1),
    detector=DetectorConfig(
        channels=16,
        train_proposals=20,
        test_proposals=10,
        rpn_samples=32,
        roi_samples=16,
        box_hidden=32,
        mask_convs=1,
        score_threshold=0.0,
        max_detections=5,
    ),
    jitter=JITTER,
    pictures=1,
)
PROBE = ProbeConfig(
    attentive=AttentiveConfig(epochs=2, batch_size=32, learning_rates=(1e-2,), poolings=("ep",)),
    strict_linear=StrictLinearConfig(epochs=2, batch_size=32, warmup_epochs=0),
    alignment_images=0,
    pictures=None,
    anchor=False,
)
Stage = Callable[[EncoderBundle, Store, Path], StageOutput]


def finetune(bundle: EncoderBundle, store: Store, work: Path) -> StageOutput:
    return run_finetune(bundle, store, FINETUNE, FP32, NullTracker(), work)


def segmentation(bundle: EncoderBundle, store: Store, work: Path) -> StageOutput:
    return run_segmentation(bundle, store, SEGMENTATION, FP32, NullTracker(), work)


def detection(bundle: EncoderBundle, store: Store, work: Path) -> StageOutput:
    return run_detection(bundle, store, DETECTION, FP32, NullTracker(), work)


def probe(bundle: EncoderBundle, store: Store, work: Path) -> StageOutput:
    return run_probe(bundle, store, PROBE, FP32, NullTracker(), running=work)


#: With the steps at which each is stopped: in its first training and in its second.
STAGES: dict[str, tuple[Stage, tuple[int, int]]] = {
    "finetune": (finetune, (4, 8)),
    "segmentation": (segmentation, (4, 8)),
    "detection": (detection, (3, 6)),
    "probe": (probe, (2, 5)),
}


@dataclass
class Steps:
    """Counts the steps trained, and stops before the one after `allowed` of them."""

    allowed: int | None = None
    done: int = 0
    train_step: Callable[..., Any] = field(default=loop.train_step)

    def __call__(self, *given: Any, **named: Any) -> Any:
        if self.done == self.allowed:
            raise KeyboardInterrupt
        output = self.train_step(*given, **named)
        self.done += 1
        return output


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """Every step is saved and counted."""
    counted = Steps()
    monkeypatch.setattr(loop, "train_step", counted)
    monkeypatch.setattr(loop._Run, "_save_due", lambda run: True)
    return counted


def weights(work: Path) -> dict[str, Tensor]:
    """What every training ended with, by its folder's name and the tensor's."""
    return {
        f"{path.parent.name}/{name}": value
        for path in sorted(work.rglob("last.pt"))
        for name, value in torch.load(path, weights_only=True)["model"].items()
    }


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_stopped_twice_ends_bit_for_bit_where_it_would_have(
    name: str, tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path, steps: Steps
) -> None:
    stage, stops = STAGES[name]
    whole = stage(tiny_bundle, tiny_store, tmp_path / "whole")
    total, steps.done = steps.done, 0
    for number, stop in enumerate(stops):
        steps.allowed = stop
        torch.manual_seed(number)  # whatever else drew random numbers
        with pytest.raises(KeyboardInterrupt):
            stage(tiny_bundle, tiny_store, tmp_path / "stopped")
    steps.allowed = None
    found = stage(tiny_bundle, tiny_store, tmp_path / "stopped")
    assert steps.done == total  # no step was trained twice, over all three calls
    expected, ended = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert expected.keys() == ended.keys()
    assert {key.partition("/")[0] for key in ended} == {p.name for p in tmp_path.glob("whole/*")}
    for key, value in ended.items():
        assert torch.equal(value, expected[key]), key
    assert found.rows["value"].tolist() == whole.rows["value"].tolist()
    for key, table in whole.tables.items():
        times = [name for name in ("images_per_s", "data_wait") if name in table]
        pd.testing.assert_frame_equal(
            found.tables[key].drop(columns=times), table.drop(columns=times)
        )
    forget(tmp_path)
    assert not weights(tmp_path)


def test_averaged_weights_are_among_what_is_kept(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path, steps: Steps
) -> None:
    steps.allowed = 2
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_bundle, tiny_store, tmp_path)
    kept = {key.split("/")[1].split(".")[0] for key in weights(tmp_path)}
    assert kept == {"classifier", "average"}


def test_other_settings_begin_anew_but_what_is_only_measured_may_change(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path, steps: Steps
) -> None:
    steps.allowed = 2
    with pytest.raises(KeyboardInterrupt):
        finetune(tiny_bundle, tiny_store, tmp_path)
    steps.allowed = None
    alone = replace(FINETUNE, anchor=False, worst=0)
    other = replace(alone, layer_decay=0.5)
    run_finetune(tiny_bundle, tiny_store, other, FP32, NullTracker(), tmp_path)
    assert steps.done == 2 + 6
    run_finetune(tiny_bundle, tiny_store, alone, FP32, NullTracker(), tmp_path)
    assert steps.done == 2 + 6 + 4
    forget(tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


def test_a_head_that_was_trained_is_not_trained_again_when_another_one_is_changed(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path, steps: Steps
) -> None:
    steps.allowed = 7  # linear takes six steps
    with pytest.raises(KeyboardInterrupt):
        segmentation(tiny_bundle, tiny_store, tmp_path)
    steps.allowed = None
    smaller = replace(SEGMENTATION, upernet=replace(SEGMENTATION.upernet, batch_size=8))
    run_segmentation(tiny_bundle, tiny_store, smaller, FP32, NullTracker(), tmp_path)
    assert steps.done == 7 + 12
