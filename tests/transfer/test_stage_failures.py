"""Every stage tells what the machine refuses, and for memory its own setting and what would fit."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from contramask.data.store import Store
from contramask.failures import ANEW, StageFailure
from contramask.methods.base import Batch, StepOutput
from contramask.models.bundle import EncoderBundle
from contramask.models.mask_rcnn import DetectorConfig
from contramask.models.upernet import UPerNetConfig
from contramask.tracker import NullTracker
from contramask.train.device import LaunchConfig
from contramask.transfer import attentive, detect, feature_cache, finetune, probe, segment
from contramask.transfer import strict_linear as strict
from contramask.transfer.classifier_training import MixedTraining
from contramask.transfer.detect import DetectionConfig, Detector, DetectorTune
from contramask.transfer.finetune_config import FinetuneConfig
from contramask.transfer.probe_config import ProbeConfig
from contramask.transfer.segment_config import LinearTune, SegmentationConfig, UPerNetTune
from contramask.transfer.segmenters import LinearSegmenter, UPerNetSegmenter

FP32 = LaunchConfig(device="cpu", precision="fp32")
Stage = Callable[[EncoderBundle, Store], Any]


def finetuned(bundle: EncoderBundle, store: Store) -> Any:
    config = FinetuneConfig(epochs=1, batch_size=32, anchor=False)
    return finetune.run_finetune(bundle, store, config, FP32, NullTracker())


def segmented(head: str) -> Stage:
    config = SegmentationConfig(
        heads=(head,),  # type: ignore[arg-type]
        linear=LinearTune(epochs=1, batch_size=32),
        upernet=UPerNetTune(epochs=1, batch_size=32),
        net=UPerNetConfig(channels=8, aux_channels=8),
        anchor=False,
    )
    return lambda bundle, store: segment.run_segmentation(
        bundle, store, config, FP32, NullTracker()
    )


def detected(bundle: EncoderBundle, store: Store) -> Any:
    net = DetectorConfig(channels=16, train_proposals=20, box_hidden=32, mask_convs=1)
    tune = DetectorTune(epochs=1, batch_size=32)
    config = DetectionConfig(tune=tune, detector=net, anchor=False)
    return detect.run_detection(bundle, store, config, FP32, NullTracker())


def probed(bundle: EncoderBundle, store: Store, **given: Any) -> Any:
    values: dict[str, Any] = {"attentive": None, "pictures": None, "anchor": False, **given}
    return probe.run_probe(bundle, store, ProbeConfig(**values), FP32, NullTracker())


def attended(bundle: EncoderBundle, store: Store) -> Any:
    config = attentive.AttentiveConfig(epochs=1, batch_size=32)
    return probed(bundle, store, attentive=config)


def strictly(bundle: EncoderBundle, store: Store) -> Any:
    config = strict.StrictLinearConfig(epochs=1, warmup_epochs=0, batch_size=32)
    return probed(bundle, store, strict_linear=config)


def room_for(images: int, model: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """More images than that do not pass through a model."""
    forward = model.forward

    def limited(self: nn.Module, batch: Batch) -> StepOutput:
        count = len(next(iter(v for v in batch.values() if isinstance(v, torch.Tensor))))
        if count > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        result: StepOutput = forward(self, batch)
        return result

    monkeypatch.setattr(model, "forward", limited)


@pytest.mark.parametrize(
    ("stage", "model", "key"),
    [
        (finetuned, MixedTraining, "finetune.batch_size"),
        (segmented("linear"), LinearSegmenter, "segmentation.linear.batch_size"),
        (segmented("upernet"), UPerNetSegmenter, "segmentation.upernet.batch_size"),
        (detected, Detector, "detection.tune.batch_size"),
        (attended, attentive._Training, "probe.attentive.batch_size"),
        (strictly, strict._Training, "probe.strict_linear.batch_size"),
    ],
)
def test_a_batch_that_fits_is_named(
    stage: Stage,
    model: type[nn.Module],
    key: str,
    tiny_store: Store,
    tiny_bundle: EncoderBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room_for(9, model, monkeypatch)
    said = f"32 images a step are too many, 8 fitted in a trial: set {key} to 8"
    with pytest.raises(StageFailure, match=rf"memory ran out \(OutOfMemoryError.*{said}"):
        stage(tiny_bundle, tiny_store)


@pytest.mark.parametrize(
    ("stage", "module", "name"),
    [
        (finetuned, finetune, "_measure"),
        (segmented("linear"), segment, "_pictures"),
        (detected, detect, "_measure"),
        (probed, probe, "_features"),
    ],
)
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), f"the disk is full.*{ANEW}"),
        (PermissionError(errno.EACCES, "Permission denied"), f"may not be used.*{ANEW}"),
        (MemoryError(), "the memory ran out.*Use a smaller encoder"),
    ],
)
def test_what_is_refused_elsewhere_is_told(
    stage: Stage,
    module: Any,
    name: str,
    error: Exception,
    said: str,
    tiny_store: Store,
    tiny_bundle: EncoderBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*given: object) -> None:
        raise error

    monkeypatch.setattr(module, name, refused)
    with pytest.raises(StageFailure, match=said):
        stage(tiny_bundle, tiny_store)


def test_features_are_not_begun_without_room(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(StageFailure, match=r"the disk is full: an encoder's features need .* GB"):
        probed(tiny_bundle, tiny_store)
