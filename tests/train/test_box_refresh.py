"""Boxes made anew while training: seen from the next epoch on, judged, and kept for a restart."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contramask.boxes.box_set import BoxSet
from contramask.boxes.gates import GateConfig
from contramask.boxes.generate import BoxConfig, generate_boxes
from contramask.boxes.rules import RuleConfig
from contramask.data.loader import ImageLoader
from contramask.data.store import Store
from contramask.data.views import ViewConfig, ViewMaker
from contramask.methods.mae import MAEConfig
from contramask.models.bundle import EncoderBundle
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig
from contramask.results import RunInfo
from contramask.tracker import NullTracker
from contramask.train import box_refresh
from contramask.train.box_refresh import RefreshConfig, RefreshedBoxes
from contramask.train.device import LaunchConfig
from contramask.train.pretrain import PretrainResult, pretrain
from contramask.train.pretrain_config import PretrainConfig
from contramask.typed import ConfigError, parse

RUN = RunInfo(experiment="tiny-0000-s1", config_hash="0000", seed=1)
OPEN = GateConfig(max_fallback=1, max_large=1)  # what a few steps of training find is no box
MAE = MAEConfig(decoder=DecoderConfig(embed_dim=16, depth=1, num_heads=2))


def make_config(**given: Any) -> PretrainConfig:
    """Five epochs of three steps, new boxes before the third and the fifth."""
    values: dict[str, Any] = {
        "encoder": EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2),
        "views": ViewConfig(crop="inside_boxes", box_margin=0),
        "epochs": 5,
        "batch_size": 32,
        "base_lr": 1e-2,
        "warmup_epochs": 1,
        "log_every": 1,
        "save_minutes": 0,
        "box_refresh": RefreshConfig(every=2, method="token_norm", baseline="none"),
        **given,
    }
    return PretrainConfig(method=MAE, **values)


class Stopping(NullTracker):
    """Stops the run at the first line from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, metrics: object, step: int) -> None:
        if step >= self.step:
            raise KeyboardInterrupt


def train(store: Store, work: Path, boxes: BoxSet, **given: Any) -> PretrainResult:
    launch = LaunchConfig(device="cpu", precision="fp32")
    tracker = given.pop("tracker", NullTracker())
    return pretrain(store, boxes, make_config(**given), RUN, launch, work, tracker)


@pytest.fixture(scope="module")
def first(tiny_store: Store) -> BoxSet:
    return generate_boxes(tiny_store, BoxConfig(method="center_half", gates=OPEN))


class Seen:
    """The boxes of every batch that a loader makes, by epoch."""

    def __init__(self) -> None:
        self.boxes: dict[int, list[np.ndarray]] = {}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the crops really saw."""
    found, real = Seen(), ImageLoader._batch

    def batch(self: ImageLoader, indices: np.ndarray, pixels: np.ndarray, epoch: int) -> Any:
        assert self.boxes is not None
        found.boxes.setdefault(epoch, []).append(self.boxes.numpy().copy())
        return real(self, indices, pixels, epoch)

    monkeypatch.setattr(ImageLoader, "_batch", batch)
    return found


def test_crops_see_the_new_boxes_from_the_epoch_on(
    tiny_store: Store, first: BoxSet, seen: Seen, tmp_path: Path
) -> None:
    result = train(tiny_store, tmp_path, first)
    history = result.output.facts["box_refreshes"]
    assert [(entry["epoch"], entry["accepted"]) for entry in history] == [(2, True), (4, True)]
    ids = [entry["in_use"] for entry in history]
    assert len({first.manifest["box_set_id"], *ids}) == 3
    for epoch in range(5):
        used = seen.boxes[epoch]
        holds = first if epoch < 2 else BoxSet.read(tmp_path / "boxes" / ids[epoch // 2 - 1])
        assert all(np.array_equal(boxes, holds.boxes) for boxes in used), epoch
    second, third = (BoxSet.read(tmp_path / "boxes" / name) for name in ids)
    assert second.manifest["parent"] == first.manifest["box_set_id"]
    assert third.manifest["parent"] == ids[0]
    assert second.manifest["checkpoint"]["weights"] != third.manifest["checkpoint"]["weights"]
    assert second.manifest["gates"] == first.manifest["gates"]
    assert sorted(p.name for p in (tmp_path / "boxes").iterdir()) == sorted(
        [*ids, "refreshes.json"]
    )


# Steps: three an epoch, new boxes after the sixth and the twelfth.
@pytest.mark.parametrize("stops", [(5, 8), (7, 14), (6, 12)])
def test_a_stopped_run_ends_bit_for_bit_where_it_would_have(
    tiny_store: Store, first: BoxSet, stops: tuple[int, int], tmp_path: Path
) -> None:
    whole = train(tiny_store, tmp_path / "whole", first)
    work = tmp_path / "stopped"
    for step in stops:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_store, work, first, tracker=Stopping(step))
    found = train(tiny_store, work, first)
    expected = whole.bundle.encoder.state_dict()
    for name, value in found.bundle.encoder.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert found.output.facts["box_refreshes"] == whole.output.facts["box_refreshes"]


def test_new_boxes_matter(tiny_store: Store, first: BoxSet, tmp_path: Path) -> None:
    with_refresh = train(tiny_store, tmp_path / "a", first)
    without = train(tiny_store, tmp_path / "b", first, box_refresh=None)
    assert without.output.facts["box_refreshes"] == []
    assert not (tmp_path / "b" / "boxes").exists()
    ours, theirs = (r.bundle.encoder.state_dict() for r in (with_refresh, without))
    assert not torch.equal(ours["blocks.0.attn.qkv.weight"], theirs["blocks.0.attn.qkv.weight"])


def test_refused_boxes_are_not_used(
    tiny_store: Store, seen: Seen, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Above zero no share is allowed, and a rule of a tiny threshold leaves whole images.
    strict = GateConfig(max_fallback=0, max_large=0)
    first = generate_boxes(tiny_store, BoxConfig(method="center_half", gates=strict))
    assert first.accepted
    with caplog.at_level(logging.WARNING), pytest.MonkeyPatch.context() as patch:
        rule = RuleConfig(threshold=0.9, smooth_sigma=0, min_area=0.9)
        patch.setitem(generate_boxes.__globals__["RULES"], "token_norm", rule)
        result = train(tiny_store, tmp_path, first)
    history = result.output.facts["box_refreshes"]
    assert [entry["accepted"] for entry in history] == [False, False]
    assert {entry["in_use"] for entry in history} == {first.manifest["box_set_id"]}
    assert all(entry["reasons"] for entry in history)
    assert "training goes on with the box set" in caplog.text
    assert all(np.array_equal(b, first.boxes) for each in seen.boxes.values() for b in each)


def test_a_lost_or_altered_set_stops_a_run_that_goes_on(
    tiny_store: Store, first: BoxSet, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_store, tmp_path, first, tracker=Stopping(9))
    (tmp_path / "boxes" / "refreshes.json").rename(tmp_path / "kept.json")
    with pytest.raises(ValueError, match="which boxes were in use from epoch 2 on"):
        train(tiny_store, tmp_path, first)
    (tmp_path / "kept.json").rename(tmp_path / "boxes" / "refreshes.json")
    (folder,) = (p for p in (tmp_path / "boxes").iterdir() if p.is_dir())
    made = BoxSet.read(folder)
    replace(made, heatmaps=255 - made.heatmaps).write(folder)
    with pytest.raises(ValueError, match="changed after it was made"):
        train(tiny_store, tmp_path, first)


def test_of_several_processes_the_others_wait_and_read(
    tiny_store: Store, first: BoxSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_store, tmp_path, first, epochs=3)  # the first process
    waited: list[bool] = []
    monkeypatch.setattr(box_refresh.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(box_refresh.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(box_refresh.dist, "barrier", lambda: waited.append(True))
    config = make_config()
    views = ViewMaker(config.views, "single", (32, 32), (0.5,) * 3, (0.5,) * 3)
    device = torch.device("cpu")
    loader = ImageLoader(tiny_store["train"], views, 32, RUN.seed, device, first.boxes)
    assert config.box_refresh is not None

    def never() -> EncoderBundle:
        raise AssertionError

    source = RefreshedBoxes(
        loader, tiny_store, first, config.box_refresh, tmp_path / "boxes", never
    )
    list(source.epoch(1))
    assert (waited, source.current) == ([], first.manifest["box_set_id"])
    next(source.epoch(2))
    assert waited == [True]
    made = BoxSet.read(tmp_path / "boxes" / source.history()[0]["in_use"])
    assert loader.boxes is not None
    assert np.array_equal(loader.boxes.numpy(), made.boxes)


def test_a_refresh_without_box_crops_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"set views\.crop to boxes or inside_boxes"):
        parse(PretrainConfig, {"box_refresh": {"every": 3}}, "pretrain")
    with pytest.raises(ConfigError, match=r"pretrain\.box_refresh\.every"):
        parse(PretrainConfig, {"box_refresh": {"every": 0}}, "pretrain")
