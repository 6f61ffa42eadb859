"""The whole pre-training of tiny encoders: what it leaves behind, and when it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from contramask.boxes.box_set import BoxSet
from contramask.boxes.generate import BoxConfig, generate_boxes
from contramask.data.store import Store
from contramask.data.views import ViewConfig
from contramask.methods import OFFERED, MethodConfig
from contramask.methods.cmae import CMAEConfig
from contramask.methods.cmae_mao import CMAEMaoConfig
from contramask.methods.conmim import ConMIMConfig
from contramask.methods.mae import MAEConfig
from contramask.methods.mim_target import PixelTargetConfig
from contramask.methods.supmim import SupMIMConfig
from contramask.models.beit import BeitEncoder
from contramask.models.bundle import EncoderBundle
from contramask.models.codebook import CodebookConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig
from contramask.models.tokenizer import TokenizerNetConfig, VQTokenizer
from contramask.models.tokenizer_bundle import TokenizerBundle, describe
from contramask.results import COLUMNS, RunInfo, StageOutput
from contramask.tracker import NullTracker
from contramask.train.checkpoint import ResumeRefused
from contramask.train.device import LaunchConfig
from contramask.train.pretrain import PretrainResult, pretrain
from contramask.train.pretrain_config import PretrainConfig
from contramask.train.world import World
from contramask.typed import ConfigError, parse

FP32 = LaunchConfig(device="cpu", precision="fp32")
SMALL = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
MAE = MAEConfig(decoder=SMALL)
CMAE = CMAEConfig(decoder=SMALL, feature_decoder=SMALL, head_hidden_dim=16, head_out_dim=8)
CONMIM = ConMIMConfig(head_hidden_dim=16, head_out_dim=8)
METHODS: dict[str, MethodConfig] = {
    "mae": MAE,
    "cmae": CMAE,
    "cmae_mao": CMAEMaoConfig(decoder=SMALL, head_hidden_dim=16, head_out_dim=8),
    "conmim": CONMIM,
    "supmim": SupMIMConfig(decoder=SMALL, target=PixelTargetConfig()),
}
#: What is trained once for all checks: every method, and the baseline that SupMIM contains.
TRAINED: dict[str, MethodConfig] = {
    **METHODS,
    "supervised": SupMIMConfig(lambda_mim=0.0),
}
#: What is stopped and continued: every method, and SupMIM with tokens and masks of its own kind.
RESUMED: dict[str, MethodConfig] = {
    **METHODS,
    "supmim, tokens": SupMIMConfig(decoder=SMALL, mode="shared"),
}
#: Terms of each one's loss.
TERMS = {
    "mae": {"recon_loss"},
    "cmae": {"recon_loss", "contrast_loss"},
    "cmae_mao": {"recon_loss", "contrast_loss", "position_loss"},
    "conmim": {"contrast_loss"},
    "supmim": {"class_loss", "class_top1", "mim_loss"},
    "supervised": {"class_loss", "class_top1"},
}
PAIRED = {"cmae", "cmae_mao", "conmim"}
PICTURED = {"mae", "cmae", "cmae_mao", "supmim"}
RUN = RunInfo(experiment="tiny-0000-s1", config_hash="0000", seed=1)


def make_config(method: MethodConfig = MAE, **given: Any) -> PretrainConfig:
    """Two epochs of three steps."""
    values: dict[str, Any] = {
        "encoder": EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2),
        "epochs": 2,
        "batch_size": 32,
        "warmup_epochs": 1,
        "log_every": 2,
        "save_minutes": 0,
        **given,
    }
    return PretrainConfig(method=method, **values)


def train(store: Store, work: Path, config: PretrainConfig, **given: Any) -> PretrainResult:
    values: dict[str, Any] = {
        "boxes": None,
        "run": RUN,
        "launch": FP32,
        "tracker": NullTracker(),
        **given,
    }
    return pretrain(store, config=config, work=work, **values)


@pytest.fixture(scope="module")
def results(
    tiny_store: Store, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, PretrainResult]:
    """One training of each method and of the baseline, and the same one of CMAE again."""
    work = tmp_path_factory.mktemp("pretrain")
    configs = {name: make_config(method) for name, method in {**TRAINED, "again": CMAE}.items()}
    return {name: train(tiny_store, work / name, config) for name, config in configs.items()}


@pytest.mark.parametrize("method", [name for name in TRAINED if name != "conmim"])
def test_the_encoder_loads_strictly_in_timm(
    results: dict[str, PretrainResult], method: str, tmp_path: Path
) -> None:
    results[method].bundle.write(tmp_path)
    bundle = EncoderBundle.read(tmp_path)
    vit = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        num_classes=0,
        global_pool="",
    )
    vit.load_state_dict(bundle.encoder.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = vit.eval().forward_features(images)
        ours = bundle.encoder.eval().forward_tokens(images)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_images_on_the_device_train_the_same(
    results: dict[str, PretrainResult], tiny_store: Store, tmp_path: Path
) -> None:
    kept = train(tiny_store, tmp_path, make_config(), launch=replace(FP32, resident=True))
    usual = results["mae"]
    for name, value in usual.bundle.encoder.state_dict().items():
        assert torch.equal(kept.bundle.encoder.state_dict()[name], value), name
    assert kept.output.facts["plan"]["images kept"] == "on the device, 0.0 GB"
    assert usual.output.facts["plan"]["images kept"] == "in the store, read while training"


@pytest.mark.parametrize("method", TRAINED)
def test_the_manifest_says_what_the_weights_are(
    results: dict[str, PretrainResult], method: str, tiny_store: Store
) -> None:
    bundle, data = results[method].bundle, tiny_store.manifest
    manifest = bundle.manifest
    assert manifest["experiment"] == RUN.experiment
    assert manifest["method"] == method
    assert manifest["branch"] == ("target" if method == "conmim" else "online")
    assert manifest["arch"]["kind"] == ("beit" if method == "conmim" else "vit")
    assert manifest["seed"] == RUN.seed
    assert manifest["config_hash"] == RUN.config_hash
    assert (manifest["mean"], manifest["std"]) == (data["mean"], data["std"])
    assert (manifest["data"], manifest["data_hash"]) == (data["name"], data["data_hash"])
    assert {p.device.type for p in bundle.encoder.parameters()} == {"cpu"}


@pytest.mark.parametrize("method", TRAINED)
def test_rows_tables_arrays_and_facts(
    results: dict[str, PretrainResult], method: str, tmp_path: Path
) -> None:
    output = results[method].output
    output.write(tmp_path)
    output = StageOutput.read(tmp_path)
    assert output.rows.columns.tolist() == COLUMNS
    assert set(output.rows["protocol"]) == {"pretrain"}
    assert set(output.rows["method"]) == {method}
    values = output.rows.set_index("metric")["value"]
    assert set(values.index) == {
        *("loss", "images_per_s", "seconds", "seconds_total"),
        *("gflop_per_image", "parameters_m"),
    }
    curve = output.tables["curve"]
    assert curve["step"].tolist() == [2, 4, 6]
    assert {"epoch", "lr", "loss", "images_per_s"} <= set(curve)
    assert set().union(*TERMS.values()) & set(curve) == TERMS[method]
    assert values["loss"] == curve["loss"].iloc[-1]
    assert values["seconds"] <= values["seconds_total"] + 0.1
    assert values["parameters_m"] == pytest.approx(0.03, abs=0.01)
    views = {"view", "target_view"} if method in PAIRED else {"view"}
    pictures = {"original", "masked", "reconstruction"} if method in PICTURED else set()
    assert set(output.arrays) == pictures | views
    for shown in output.arrays.values():
        assert shown.shape == (12, 32, 32, 3)
        assert shown.dtype == np.uint8
    facts = output.facts
    assert facts["method"] == facts["plan"]["method"] == method
    assert facts["config"]["method"]["name"] == TRAINED[method].name
    assert facts["plan"]["steps"] == 6
    assert facts["plan"]["lr after scaling"] == pytest.approx(1.5e-4 / 8)
    assert facts["seconds"] == pytest.approx(values["seconds"])
    assert "torch" in facts["machine"]


def test_the_same_seed_gives_the_same_bytes(
    results: dict[str, PretrainResult], tmp_path: Path
) -> None:
    for name in ("cmae", "again"):
        results[name].bundle.write(tmp_path / name)
    files = [(tmp_path / name / "encoder.safetensors").read_bytes() for name in ("cmae", "again")]
    assert files[0] == files[1]
    first, second = (results[name].output for name in ("cmae", "again"))
    assert first.arrays.keys() == second.arrays.keys()
    assert all(np.array_equal(first.arrays[k], second.arrays[k]) for k in first.arrays)
    times = ["images_per_s", "data_wait"]
    pd.testing.assert_frame_equal(
        first.tables["curve"].drop(columns=times), second.tables["curve"].drop(columns=times)
    )


def test_another_seed_gives_other_weights(
    results: dict[str, PretrainResult], tiny_store: Store, tmp_path: Path
) -> None:
    other = train(tiny_store, tmp_path, make_config(), run=replace(RUN, seed=2))
    ours = results["mae"].bundle.encoder.patch_embed.proj.weight
    assert not torch.equal(other.bundle.encoder.patch_embed.proj.weight, ours)


def test_training_moved_the_weights(results: dict[str, PretrainResult], tiny_store: Store) -> None:
    # Both methods start from the same seed, so an untrained encoder would be the same in both.
    mae, cmae = (results[name].bundle.encoder.state_dict() for name in ("mae", "cmae"))
    assert not torch.equal(mae["blocks.0.attn.qkv.weight"], cmae["blocks.0.attn.qkv.weight"])
    assert torch.equal(mae["pos_embed"], cmae["pos_embed"])


def test_nothing_but_the_last_checkpoint_stays_until_the_result_is_saved(
    tiny_store: Store, tmp_path: Path
) -> None:
    train(tiny_store, tmp_path, make_config(epochs=1, warmup_epochs=0))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


class Stopping(NullTracker):
    """Stops the run at the first line from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, metrics: object, step: int) -> None:
        if step >= self.step:
            raise KeyboardInterrupt


def test_a_stopped_run_is_continued_and_only_by_its_own_settings(
    results: dict[str, PretrainResult], tiny_store: Store, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_store, tmp_path, make_config(CMAE), tracker=Stopping(4))
    with pytest.raises(ResumeRefused, match=r"pretrain\.base_lr: 0\.00015 in the checkpoint"):
        train(tiny_store, tmp_path, make_config(CMAE, base_lr=1e-3))
    with pytest.raises(ResumeRefused, match="seed: 1 in the checkpoint, 2 now"):
        train(tiny_store, tmp_path, make_config(CMAE), run=replace(RUN, seed=2))
    # How often it is logged and saved may change.
    continued = train(tiny_store, tmp_path, make_config(CMAE, save_minutes=5, log_every=2))
    expected = results["cmae"].bundle.encoder.state_dict()
    for name, value in continued.bundle.encoder.state_dict().items():
        assert torch.equal(value, expected[name]), name


def weights_and_curve(result: PretrainResult) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    times = ["images_per_s", "data_wait"]
    return result.bundle.encoder.state_dict(), result.output.tables["curve"].drop(columns=times)


@pytest.fixture(scope="module")
def tokens(tiny_store: Store) -> TokenizerBundle:
    """An untrained tokenizer whose 16 codes lie where it puts the images' patches of 8 px."""
    torch.manual_seed(3)
    made = VQTokenizer(8, 3, 16, TokenizerNetConfig(widths=(8,)), CodebookConfig(dim=6))
    images = torch.from_numpy(tiny_store["train"].__getitems__(np.arange(96)))
    images = images.permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        made.codebook.start(made.features(made.scaled(images)).flatten(0, 1), seed=0)
    origin = {"data_hash": tiny_store.data_hash, "image_size": [32, 32]}
    verdict = {"accepted": True, "reasons": [], "on_alarm": "stop"}
    return TokenizerBundle(made, {**describe(made), **origin, **verdict})


def test_no_method_is_forgotten() -> None:
    assert set(METHODS) == set(OFFERED)


@pytest.mark.parametrize("name", RESUMED)
def test_every_method_stopped_twice_ends_bit_for_bit_where_it_would_have(
    name: str, tiny_store: Store, tokens: TokenizerBundle, tmp_path: Path
) -> None:
    config = make_config(RESUMED[name], log_every=1)
    given = tokens if getattr(config.method, "needs_tokenizer", False) else None
    whole = train(tiny_store, tmp_path / "whole", config, tokenizer=given)
    expected, curve = weights_and_curve(whole)
    work = tmp_path / "stopped"
    for step in (2, 5):  # in the first epoch and in the second
        with pytest.raises(KeyboardInterrupt):
            train(tiny_store, work, config, tracker=Stopping(step), tokenizer=given)
        assert (work / "last.pt").exists()
    found, again = weights_and_curve(train(tiny_store, work, config, tokenizer=given))
    assert ("token_drift" in curve) == (given is not None)  # of which counts are kept
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    pd.testing.assert_frame_equal(again, curve)


@pytest.fixture(scope="module")
def accepted_boxes(tiny_store: Store) -> BoxSet:
    return generate_boxes(tiny_store, BoxConfig(method="center_half"))


@pytest.mark.parametrize("crop", ["boxes", "inside_boxes"])
def test_box_crops_change_the_views(
    results: dict[str, PretrainResult],
    tiny_store: Store,
    accepted_boxes: BoxSet,
    crop: str,
    tmp_path: Path,
) -> None:
    assert accepted_boxes.accepted
    # Grown by its default margin, the central half is the whole image again.
    views = ViewConfig(crop=crop, box_margin=0)
    config = make_config(CMAE, views=views, epochs=1, warmup_epochs=0)
    boxed = train(tiny_store, tmp_path, config, boxes=accepted_boxes)
    plain = results["cmae"].output.arrays["view"]
    assert boxed.output.arrays["view"].shape == plain.shape
    assert not np.array_equal(boxed.output.arrays["view"], plain)


def test_a_missing_refused_or_foreign_box_set_stops_the_training(
    tiny_store: Store, plain_store: Store, accepted_boxes: BoxSet, tmp_path: Path
) -> None:
    config = make_config(views=ViewConfig(crop="boxes"))
    with pytest.raises(ValueError, match="no box set was made"):
        train(tiny_store, tmp_path, config)
    manifest = {
        **accepted_boxes.manifest,
        "accepted": False,
        "reasons": ["60% of the boxes are the whole image"],
        "on_alarm": "stop",
    }
    refused = replace(accepted_boxes, manifest=manifest)
    with pytest.raises(ValueError, match="60% of the boxes are the whole image"):
        train(tiny_store, tmp_path, config, boxes=refused)
    foreign = replace(accepted_boxes, manifest={**accepted_boxes.manifest, "data_hash": "beef"})
    with pytest.raises(ValueError, match="made from other images"):
        train(tiny_store, tmp_path, config, boxes=foreign)


def test_boxes_nobody_asked_for_are_ignored(
    results: dict[str, PretrainResult], tiny_store: Store, accepted_boxes: BoxSet, tmp_path: Path
) -> None:
    again = train(tiny_store, tmp_path, make_config(MAE), boxes=accepted_boxes)
    expected = results["mae"].bundle.encoder.state_dict()
    found = again.bundle.encoder.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


OWN = [
    {"name": "RandomResizedCrop", "size": [32, 32], "scale": [0.4, 1.0]},
    {"name": "OneOf", "transforms": [{"name": "ColorJitter"}, {"name": "GaussianBlur"}], "p": 0.5},
]


@pytest.mark.parametrize("workers", [0, 2])
def test_own_transforms_continue_bit_for_bit_with_any_number_of_workers(
    tiny_store: Store, tmp_path: Path, workers: int
) -> None:
    views = ViewConfig(transforms=OWN)
    config = make_config(CMAE, views=views, log_every=1)
    launch = LaunchConfig(device="cpu", precision="fp32", workers=0)
    whole = train(tiny_store, tmp_path / "whole", config, launch=launch)
    expected, curve = weights_and_curve(whole)
    shown = whole.output.arrays
    assert not np.array_equal(shown["view"], shown["target_view"])
    launch = replace(launch, workers=workers)
    work = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):  # within the second epoch
        train(tiny_store, work, config, tracker=Stopping(5), launch=launch)
    found, again = weights_and_curve(train(tiny_store, work, config, launch=launch))
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    pd.testing.assert_frame_equal(again, curve)


def test_own_transforms_that_give_no_views_are_refused(
    tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ViewConfig(transforms=[{**OWN[0], "size": [24, 24]}])
    with pytest.raises(ValueError, match="gave 24x24x3 uint8; the view must be 32x32x3"):
        train(tiny_store, tmp_path, make_config(views=small))
    monkeypatch.setattr("contramask.train.batches.current_world", lambda: World(0, 3))
    with pytest.raises(ValueError, match="32 images cannot be shared equally by 3 processes"):
        train(tiny_store, tmp_path, make_config(views=ViewConfig(transforms=OWN)))
    monkeypatch.undo()
    moving = ViewConfig(transforms=OWN)
    with pytest.raises(ValueError, match="compares two views place by place"):
        train(tiny_store, tmp_path, make_config(CONMIM, views=moving))
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_do_not_fit_are_refused(tiny_store: Store, tmp_path: Path) -> None:
    config = make_config(encoder=EncoderConfig(patch_size=5))
    with pytest.raises(ValueError, match=r"32x32 px cannot be cut into patches of 5 px"):
        train(tiny_store, tmp_path, config)
    with pytest.raises(ValueError, match="a batch of 128 cannot be filled from 96 images"):
        train(tiny_store, tmp_path, make_config(batch_size=128))


def test_unlabelled_images_without_a_val_split_in_bf16_at_another_size(
    plain_store: Store, tmp_path: Path
) -> None:
    config = make_config(CMAE, batch_size=10, image_size=32, epochs=1, warmup_epochs=0)
    launch = LaunchConfig(device="cpu", precision="bf16")
    result = train(plain_store, tmp_path, config, launch=launch)
    assert result.bundle.manifest["arch"]["image_size"] == [32, 32]
    assert result.output.arrays["reconstruction"].shape == (12, 32, 32, 3)
    assert result.output.facts["plan"]["device"] == "cpu, bf16"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "did you mean `epochs`"),
        ({"betas": [0.9, 1.5]}, r"pretrain\.betas\.1"),
        ({"method": {"name": "mae", "temperature": 1}}, r"pretrain\.method\.temperature"),
        ({"method": {"name": "moco"}}, "mae"),
    ],
)
def test_mistakes_in_the_configuration_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(PretrainConfig, values, "pretrain")


def test_conmim_exports_its_target_to_be_trained_further(tiny_store: Store, tmp_path: Path) -> None:
    config = make_config(CONMIM, min_lr_factor=0.5, exempt="beit")
    result = train(tiny_store, tmp_path, config)
    bundle, output = result.bundle, result.output
    assert isinstance(bundle.encoder, BeitEncoder)
    assert (bundle.manifest["branch"], bundle.manifest["arch"]["kind"]) == ("target", "beit")
    assert all(p.requires_grad for p in bundle.encoder.parameters())
    rows = output.rows.set_index("metric")["value"]
    assert rows["parameters_m"] > 0.02
    curve = output.tables["curve"]
    assert {"content_gain", "shortcut", "match_top1", "target_distance"} <= set(curve)
    assert curve["lr"].iloc[-1] > 0.5 * curve["lr"].max()
    assert output.arrays["view"].shape == output.arrays["target_view"].shape
    assert "reconstruction" not in output.arrays
