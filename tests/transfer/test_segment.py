"""Segmentation: what is measured and kept, learning, repeatability, and stores it must skip."""

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.models.dpt import PACKAGE, DPTConfig
from contramask.models.family import Encoder
from contramask.models.upernet import UPerNet, UPerNetConfig
from contramask.results import COLUMNS, StageOutput
from contramask.tracker import NullTracker
from contramask.train.device import LaunchConfig
from contramask.transfer import segment, segment_training
from contramask.transfer.dense import tunable
from contramask.transfer.jitter import JitterConfig
from contramask.transfer.segment import run_segmentation
from contramask.transfer.segment_config import (
    DPTTune,
    LinearTune,
    SegmentationConfig,
    TunedHead,
    UPerNetTune,
)
from contramask.transfer.segmenters import UPerNetSegmenter, build_segmenter, pixel_loss
from contramask.typed import ConfigError, parse

FP32 = LaunchConfig(device="cpu", precision="fp32")
SHORT = SegmentationConfig(
    train_limit=64,
    val_limit=24,
    linear=LinearTune(epochs=4, batch_size=16),
    upernet=UPerNetTune(epochs=2, batch_size=16),
    net=UPerNetConfig(channels=8, aux_channels=8),
    pictures=3,
)
ONE_LINEAR = replace(SHORT, heads=("linear",), anchor=False)
ONE_UPERNET = replace(SHORT, heads=("upernet",), anchor=False)


class Recorder(NullTracker):
    """Keeps the names of what is logged."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def log(self, metrics: object, step: int) -> None:
        self.names |= set(metrics)  # type: ignore[call-overload]


def run(
    bundle: EncoderBundle, store: Store, config: SegmentationConfig, launch: LaunchConfig = FP32
) -> StageOutput:
    return run_segmentation(bundle, store, config, launch, NullTracker())


def test_rows_tables_arrays_and_facts(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = {name: value.clone() for name, value in tiny_bundle.encoder.state_dict().items()}
    tracker, folder = Recorder(), tmp_path_factory.mktemp("segmentation")
    run_segmentation(tiny_bundle, tiny_store, SHORT, FP32, tracker).write(folder)
    output = StageOutput.read(folder)
    rows = output.rows
    assert rows.columns.tolist() == COLUMNS
    assert len(rows) == 2 * 2 * 4  # encoders, heads, metrics
    assert set(rows["method"]) == {"cmae", "random_init"}
    assert set(rows["protocol"]) == {"linear", "upernet"}
    assert set(rows["metric"]) == {"miou", "macc", "aacc", "fwiou"}
    assert rows["value"].between(0, 100).all()
    assert rows.groupby("protocol")["readout"].first().to_dict() == {
        "linear": "last map, normed",
        "upernet": "blocks 0,0,1,1",
    }
    names = tiny_store.manifest["semantic_classes"]
    for method in ("cmae", "random_init"):
        assert output.arrays[f"{method}/images"].shape == (3, 32, 32, 3)
        assert output.arrays[f"{method}/truth"].shape == (3, 32, 32)
        for head in ("linear", "upernet"):
            predicted = output.arrays[f"{method}/predicted_{head}"]
            assert predicted.shape == (3, 32, 32)
            assert predicted.dtype == np.uint8
            assert predicted.max() < len(names)
            assert output.tables[f"{method}-{head}-per_class"]["class"].tolist() == names
            assert "loss" in output.tables[f"{method}-{head}-curve"]
    assert np.array_equal(output.arrays["cmae/truth"], output.arrays["random_init/truth"])
    assert output.facts["classes"] == names
    assert output.facts["train_images"] == 64
    assert output.facts["encoder_input"] == [32, 32]
    assert output.facts["config"]["linear"]["epochs"] == 4
    assert {
        *("segmentation/upernet/loss", "segmentation/linear/miou"),
        *("segmentation/upernet/random_init/loss", "segmentation/linear/random_init/miou"),
    } <= tracker.names
    assert not any("cmae" in name for name in tracker.names)
    after = tiny_bundle.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_miou_is_the_mean_of_the_per_class_table(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    output = run(tiny_bundle, tiny_store, ONE_LINEAR)
    table = output.tables["cmae-linear-per_class"]
    values = output.rows.set_index("metric")["value"]
    assert values["miou"] == pytest.approx(table["iou"].mean())
    assert values["fwiou"] == pytest.approx((table["iou"] * table["share"] / 100).sum())


@pytest.mark.parametrize("config", [ONE_LINEAR, ONE_UPERNET], ids=["linear", "upernet"])
def test_the_same_seed_gives_the_same_numbers(
    tiny_store: Store, tiny_bundle: EncoderBundle, config: SegmentationConfig
) -> None:
    first, second = (run(tiny_bundle, tiny_store, config) for _ in range(2))
    head = config.heads[0]
    losses = [o.tables[f"cmae-{head}-curve"]["loss"].tolist() for o in (first, second)]
    assert losses[0] == losses[1]
    pd.testing.assert_frame_equal(first.rows, second.rows)


def test_both_heads_learn(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    config = replace(
        SHORT,
        anchor=False,
        linear=LinearTune(epochs=20, batch_size=16),
        upernet=UPerNetTune(epochs=8, batch_size=16, lr=1e-2),
    )
    output = run(tiny_bundle, tiny_store, config)
    for head in config.heads:
        losses = output.tables[f"cmae-{head}-curve"]["loss"]
        assert losses.iloc[-1] < 0.6 * losses.iloc[0]
    accuracy = output.rows[output.rows["metric"] == "aacc"].set_index("protocol")["value"]
    background = (np.array(tiny_store["val"].semantic) == 0).mean() * 100
    assert (accuracy > background - 5).all()


def test_streamed_features_give_what_cached_ones_give(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    cached = run(tiny_bundle, tiny_store, ONE_LINEAR)
    streamed = run(tiny_bundle, tiny_store, replace(ONE_LINEAR, cache_megabytes=0))
    curves = [o.tables["cmae-linear-curve"]["loss"] for o in (cached, streamed)]
    # the cache keeps half precision
    assert curves[0].to_numpy() == pytest.approx(curves[1].to_numpy(), rel=2e-3)


def test_enlarged_and_jittered_in_bf16(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    config = replace(
        ONE_UPERNET, upscale=2.0, jitter=JitterConfig(scale=(0.5, 1.5), flip=0.5), train_limit=20
    )
    launch = LaunchConfig(device="cpu", precision="bf16")
    output = run(tiny_bundle, tiny_store, config, launch)
    assert output.facts["encoder_input"] == [64, 64]
    assert output.arrays["cmae/predicted_upernet"].shape == (3, 32, 32)
    assert np.isfinite(output.tables["cmae-upernet-curve"]["loss"]).all()


def test_upernet_learns_on_windows_and_slides_them(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    config = replace(
        ONE_UPERNET,
        upscale=2.0,
        crop=(40, 48),
        jitter=JitterConfig(scale=(0.5, 2.0), flip=0.5),
        train_limit=20,
    )
    output = run(tiny_bundle, tiny_store, config)
    assert output.facts["encoder_input"] == [64, 64]
    assert output.facts["inference"].startswith("upernet by windows of 40x48 px, 67% of a side")
    assert output.arrays["cmae/predicted_upernet"].shape == (3, 32, 32)
    assert np.isfinite(output.tables["cmae-upernet-curve"]["loss"]).all()


def test_windows_need_no_image_of_whole_patches_and_one_resampling(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    plain = segment_training.build_segmenter

    def noted(head: TunedHead, encoder: Encoder, *rest: Any) -> Any:
        read.append(encoder.pos_embed.detach().clone())
        return plain(head, encoder, *rest)

    monkeypatch.setattr(segment_training, "build_segmenter", noted)
    config = replace(ONE_UPERNET, upscale=1.9, crop=(40, 48), train_limit=20)
    output = run(tiny_bundle, tiny_store, config)
    assert output.facts["encoder_input"] == [61, 61]
    assert torch.equal(read[0], tiny_bundle.encoder.resized((40, 48)).pos_embed)
    with pytest.raises(ValueError, match="multiples of 8"):  # read whole
        run(tiny_bundle, tiny_store, replace(config, crop=None))


def test_only_pictured_predictions_are_kept(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tiny_bundle, tiny_store, ONE_LINEAR)
    monkeypatch.setattr(segment, "EVAL_BATCH", 5)
    split = run(tiny_bundle, tiny_store, ONE_LINEAR)
    assert np.array_equal(*(output.arrays["cmae/predicted_linear"] for output in (whole, split)))
    assert len(split.arrays["cmae/predicted_linear"]) == 3
    none = run(tiny_bundle, tiny_store, replace(ONE_LINEAR, pictures=0))
    assert none.arrays["cmae/predicted_linear"].shape == (0, 32, 32)


def test_colours_are_distorted_in_training_alone(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    config = replace(ONE_UPERNET, jitter=JitterConfig(photometric=True))
    outputs = [run(tiny_bundle, tiny_store, one) for one in (ONE_UPERNET, config, config)]
    curves = [one.tables["cmae-upernet-curve"]["loss"].tolist() for one in outputs]
    assert curves[0] != curves[1]
    assert curves[1] == curves[2]


def test_a_window_of_no_whole_patches_is_refused(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    with pytest.raises(ValueError, match="cannot read 41x48 px; give multiples of 8"):
        run(tiny_bundle, tiny_store, replace(ONE_UPERNET, upscale=2.0, crop=(41, 48)))


needs_library = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="segmentation-models-pytorch is not installed (uv sync --extra dpt)",
)


def one_dpt() -> SegmentationConfig:
    """DPT alone; a configuration that names it cannot be made without its package."""
    return replace(
        SHORT,
        heads=("dpt",),
        anchor=False,
        dpt=DPTTune(epochs=4, batch_size=16),
        dpt_net=DPTConfig(channels=16, level_channels=(16, 16, 16, 16)),
    )


@needs_library
def test_dpt_learns_from_whole_images_for_both_families(
    tiny_store: Store, tiny_bundle: EncoderBundle, conmim_bundle: EncoderBundle
) -> None:
    for bundle, method in ((tiny_bundle, "cmae"), (conmim_bundle, "conmim")):
        output = run(bundle, tiny_store, one_dpt())
        assert set(output.rows["protocol"]) == {"dpt"}
        assert set(output.rows["readout"]) == {"blocks 0,0,1,1"}
        assert output.arrays[f"{method}/predicted_dpt"].shape == (3, 32, 32)
        losses = output.tables[f"{method}-dpt-curve"]["loss"]
        assert losses.iloc[-1] < 0.9 * losses.iloc[0]


@needs_library
def test_dpt_slides_windows_and_its_encoder_decays(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    jitter = JitterConfig(scale=(0.5, 2.0), flip=0.5)
    config = replace(one_dpt(), upscale=3.0, crop=(64, 32), jitter=jitter, train_limit=20)
    output = run(tiny_bundle, tiny_store, config)
    assert output.facts["encoder_input"] == [96, 96]
    assert output.facts["inference"].startswith("dpt by windows of 64x32 px")
    assert np.isfinite(output.tables["cmae-dpt-curve"]["loss"]).all()
    model = build_segmenter("dpt", tunable(tiny_bundle.encoder, 0.0), 3, one_dpt())
    groups = model.groups(DPTTune(layer_decay=0.5))
    assert sorted({g["lr_scale"] for g in groups}) == [0.125, 0.25, 0.5, 1.0]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_dpt_is_refused_before_anything_is_trained(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"heads": ["linear", "dpt"]}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    parsed = parse(SegmentationConfig, config, "segmentation")
    tracker, large = Recorder(), replace(parsed, upscale=1.5)
    with pytest.raises(ValueError, match="multiples of 32 px, given 48x48"):
        run_segmentation(tiny_bundle, tiny_store, large, FP32, tracker)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"uv sync --extra dpt"):
        parse(SegmentationConfig, config, "segmentation")
    with pytest.raises(ValueError, match=r"uv sync --extra dpt"):
        run_segmentation(tiny_bundle, tiny_store, parsed, FP32, tracker)
    assert tracker.names == set()


def test_the_encoder_is_made_for_the_stores_images(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    """An encoder trained on other sizes reads this store's images as they are."""
    other = replace(tiny_bundle, encoder=tiny_bundle.encoder.resized((16, 24)))
    output = run(other, tiny_store, replace(ONE_LINEAR, train_limit=20))
    assert output.facts["encoder_input"] == [32, 32]


def test_conmims_beit_is_segmented_with_both_heads(
    tiny_store: Store, conmim_bundle: EncoderBundle
) -> None:
    config = replace(SHORT, train_limit=32, upscale=2.0)
    config = replace(config, upernet=replace(config.upernet, drop_path=0.2))
    before = {name: value.clone() for name, value in conmim_bundle.encoder.state_dict().items()}
    output = run(conmim_bundle, tiny_store, config)
    rows = output.rows
    assert len(rows) == 2 * 2 * 4  # encoders, heads, metrics
    assert set(rows["method"]) == {"conmim", "random_init"}
    assert set(rows["encoder"]) == {"BEiT 32x2/8, 2 heads, MLP 4, 32x32 px"}
    assert rows["value"].between(0, 100).all()
    assert output.facts["encoder_input"] == [64, 64]  # its bias tables are resampled
    for head in config.heads:
        assert output.arrays[f"conmim/predicted_{head}"].shape == (3, 32, 32)
        losses = output.tables[f"conmim-{head}-curve"]["loss"]
        assert losses.iloc[-1] < losses.iloc[0]
    after = conmim_bundle.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_stores_without_pixel_classes_or_val_images_are_skipped(
    shade_store: Store, shade_bundle: EncoderBundle, caplog: pytest.LogCaptureFixture
) -> None:
    output = run(shade_bundle, shade_store, SHORT)
    assert output.rows.empty
    assert output.facts == {
        "stage": "segmentation",
        "skipped": "the images have no classes per pixel",
    }
    assert "skipped" in caplog.text


def test_pixel_loss_ignores_255_and_survives_without_any_class() -> None:
    torch.manual_seed(0)
    logits, semantic = torch.randn(2, 4, 5, 5), torch.randint(0, 4, (2, 5, 5))
    semantic[0, :3] = 255
    counted = semantic != 255
    chosen = logits.permute(0, 2, 3, 1)[counted]
    assert torch.allclose(
        pixel_loss(logits, semantic.to(torch.uint8)), F.cross_entropy(chosen, semantic[counted])
    )
    assert pixel_loss(logits, torch.full((2, 10, 10), 255, dtype=torch.uint8)) == 0


def test_upernet_groups_decay_towards_the_input(tiny_bundle: EncoderBundle) -> None:
    net = UPerNet(tunable(tiny_bundle.encoder, 0.0), 3, UPerNetConfig(channels=8, aux_channels=8))
    model = UPerNetSegmenter(net, 0.4)
    groups = model.groups(UPerNetTune(layer_decay=0.5))
    assert sorted({g["lr_scale"] for g in groups}) == [0.125, 0.25, 0.5, 1.0]
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_unknown_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads"):
        parse(SegmentationConfig, {"heads": ["mask2former"]}, "segmentation")
    kept = parse(SegmentationConfig, {"linear": {"epochs": 1}}, "segmentation").linear
    assert (kept.epochs, kept.lr) == (1, LinearTune().lr)
