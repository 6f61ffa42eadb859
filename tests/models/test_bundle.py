"""The folder people take away: what is in it, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from contramask.models.beit import BeitConfig, build_beit
from contramask.models.bundle import EncoderBundle, make_bundle, random_init_bundle
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.results import COLUMNS, RunInfo, result_row

CONFIG = EncoderConfig(patch_size=4, embed_dim=16, depth=2, num_heads=2)
DATA: dict[str, Any] = {"name": "digits", "data_hash": "beef", "mean": [0.5] * 3, "std": [0.2] * 3}


def bundle(seed: int = 3) -> EncoderBundle:
    """A bundle as pre-training makes it: built from its seed, then changed by training."""
    torch.manual_seed(seed)
    encoder = build_encoder(CONFIG, (16, 24), 3)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    run = RunInfo(f"cmae-0a1b-s{seed}", "0a1b", seed)
    return make_bundle(encoder, run, "cmae", "online", DATA)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = bundle()
    written.write(tmp_path / "new" / "folder")
    read = EncoderBundle.read(tmp_path / "new" / "folder")
    assert read.manifest == written.manifest
    assert read.encoder.config == CONFIG
    images = torch.rand(2, 3, 16, 24)
    assert torch.equal(read.encoder.forward_tokens(images), written.encoder.forward_tokens(images))


def test_reading_does_not_depend_on_writing_again(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    bundle().write(first)
    EncoderBundle.read(first).write(second)
    for name in ("encoder.safetensors", "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_folder_holds_two_files_that_others_may_read(tmp_path: Path) -> None:
    bundle().write(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encoder.safetensors", "manifest.json"]
    assert (tmp_path / "encoder.safetensors").stat().st_mode & 0o044 == 0o044


def test_the_weights_load_strictly_in_timm(tmp_path: Path) -> None:
    bundle().write(tmp_path)
    state = load_file(tmp_path / "encoder.safetensors")
    assert {value.dtype for value in state.values()} == {torch.float32}
    model = timm.models.VisionTransformer(
        img_size=(16, 24), patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0
    )
    model.load_state_dict(state, strict=True)


def test_the_manifest_says_what_the_weights_are() -> None:
    manifest = bundle().manifest
    expected = {
        "experiment": "cmae-0a1b-s3",
        "method": "cmae",
        "branch": "online",
        "config_hash": "0a1b",
        "seed": 3,
        "data": "digits",
        "data_hash": "beef",
        "mean": [0.5] * 3,
    }
    assert expected.items() <= manifest.items()
    assert manifest["arch"]["image_size"] == [16, 24]
    assert {"std", "code_revision", "date", "licence", "schema"} <= set(manifest)
    assert json.loads(json.dumps(manifest)) == manifest
    row = result_row(manifest, "val", "knn", "cls", "knn_top1", 1.0)
    assert list(row) == COLUMNS
    assert row["encoder"] == "16x2/4, 2 heads, MLP 4, 16x24 px"


@pytest.mark.parametrize("name", ["manifest.json", "encoder.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    bundle().write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"holds no encoder: {name} is missing"):
        EncoderBundle.read(tmp_path)


def test_a_wrong_place_is_told_where_encoders_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give an experiment's folder in 06_models"):
        EncoderBundle.read(tmp_path / "nothing")
    bundle().write(tmp_path / "mae-1f2e-s0")
    with pytest.raises(ValueError, match="beside it there are mae-1f2e-s0"):
        EncoderBundle.read(tmp_path / "mae")
    with pytest.raises(ValueError, match="give the folder it lies in"):
        EncoderBundle.read(tmp_path / "mae-1f2e-s0" / "encoder.safetensors")


@pytest.mark.parametrize(
    ("text", "said"), [("{oops", r"manifest\.json is damaged"), ("[]", r"sizes \(arch\)")]
)
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: str, said: str) -> None:
    bundle().write(tmp_path)
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=said):
        EncoderBundle.read(tmp_path)


def test_a_damaged_weight_file_is_named(tmp_path: Path) -> None:
    bundle().write(tmp_path)
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"encoder\.safetensors is damaged"):
        EncoderBundle.read(tmp_path)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    bundle().write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["arch"]["config"]["embed_dim"] = 32
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="the weights do not fit the manifest"):
        EncoderBundle.read(tmp_path)


def test_a_weight_that_is_not_there_is_refused(tmp_path: Path) -> None:
    bundle().write(tmp_path)
    state = load_file(tmp_path / "encoder.safetensors")
    state.pop("blocks.1.mlp.fc2.bias")
    save_file(state, tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.fc2\.bias"):
        EncoderBundle.read(tmp_path)


def test_the_anchor_has_the_same_sizes_and_other_weights() -> None:
    trained = bundle()
    anchor = random_init_bundle(trained)
    assert anchor.manifest["arch"] == trained.manifest["arch"]
    assert anchor.manifest["method"] == "random_init"
    assert anchor.manifest["experiment"] == "random_init-s3"
    assert anchor.manifest["mean"] == trained.manifest["mean"]
    assert trained.manifest["method"] == "cmae"  # the original is left alone
    weight = "blocks.0.attn.qkv.weight"
    assert not torch.equal(
        anchor.encoder.get_parameter(weight), trained.encoder.get_parameter(weight)
    )


def test_the_anchor_is_the_same_twice_and_another_for_another_seed() -> None:
    torch.manual_seed(0)
    first = random_init_bundle(bundle()).encoder.state_dict()
    torch.manual_seed(1)
    second = random_init_bundle(bundle()).encoder.state_dict()
    other = random_init_bundle(bundle(seed=4)).encoder.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["cls_token"], other["cls_token"])


def test_the_anchor_is_where_training_from_that_seed_starts() -> None:
    torch.manual_seed(3)
    start = build_encoder(CONFIG, (16, 24), 3).state_dict()
    anchor = random_init_bundle(bundle(seed=3)).encoder.state_dict()
    assert all(torch.equal(anchor[name], start[name]) for name in start)


def test_making_an_anchor_does_not_move_the_random_generator() -> None:
    trained = bundle()
    before = torch.get_rng_state()
    random_init_bundle(trained)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_beit_target_is_written_read_and_free_to_be_trained(tmp_path: Path) -> None:
    torch.manual_seed(3)
    encoder = build_beit(CONFIG, BeitConfig(layer_scale=0.2), (16, 24), 3)
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    run = RunInfo("conmim-0a1b-s3", "0a1b", 3)
    written = make_bundle(encoder.requires_grad_(False), run, "conmim", "target", DATA)
    assert all(p.requires_grad for p in written.encoder.parameters())
    written.write(tmp_path)
    read = EncoderBundle.read(tmp_path)
    assert read.manifest["arch"]["kind"] == "beit"
    assert read.encoder.beit == BeitConfig(layer_scale=0.2)
    images = torch.rand(2, 3, 16, 24)
    assert torch.equal(read.encoder.forward_tokens(images), encoder.forward_tokens(images))
    anchor = random_init_bundle(read)
    assert anchor.manifest["arch"] == read.manifest["arch"]
    state = anchor.encoder.state_dict()
    assert all(torch.equal(state[name], start[name]) for name in start)
