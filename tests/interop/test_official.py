"""Official names and sizes, read into our methods."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from contramask.interop.official import (
    KnownAnswer,
    build_from,
    cmae_name,
    mae_name,
    read_known_answer,
)
from contramask.methods.cmae import CMAE
from contramask.methods.mae import MAE


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("cls_token", "encoder.cls_token"),
        ("pos_embed", "encoder.pos_embed"),
        ("patch_embed.proj.bias", "encoder.patch_embed.proj.bias"),
        ("blocks.11.mlp.fc1.weight", "encoder.blocks.11.mlp.fc1.weight"),
        ("norm.weight", "encoder.norm.weight"),
        ("mask_token", "pixel_decoder.mask_token"),
        ("decoder_pos_embed", "pixel_decoder.pos_embed"),
        ("decoder_embed.weight", "pixel_decoder.embed.weight"),
        ("decoder_blocks.0.norm2.bias", "pixel_decoder.blocks.0.norm2.bias"),
        ("decoder_norm.bias", "pixel_decoder.norm.bias"),
        ("decoder_pred.weight", "pixel_decoder.pred.weight"),
    ],
)
def test_names_of_mae(official: str, ours: str) -> None:
    assert mae_name(official) == ours


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("backbone.cls_token", "encoder.cls_token"),
        ("backbone.patch_embed.projection.weight", "encoder.patch_embed.proj.weight"),
        ("backbone.layers.3.ffn.layers.0.0.bias", "encoder.blocks.3.mlp.fc1.bias"),
        ("backbone.layers.1.ffn.layers.1.bias", "encoder.blocks.1.mlp.fc2.bias"),
        ("backbone.layers.0.ln2.weight", "encoder.blocks.0.norm2.weight"),
        ("backbone.ln1.weight", "encoder.norm.weight"),
        ("target_backbone.layers.0.ln1.bias", "target_encoder.blocks.0.norm1.bias"),
        ("pixel_decoder.decoder_pos_embed", "pixel_decoder.pos_embed"),
        ("pixel_decoder.mask_token", "pixel_decoder.mask_token"),
        ("pixel_decoder.ln1.bias", "pixel_decoder.norm.bias"),
        (
            "feature_decoder.decoder_blocks.1.ffn.layers.0.0.weight",
            "feature_decoder.blocks.1.mlp.fc1.weight",
        ),
        ("feature_decoder.decoder_pred.bias", "feature_decoder.pred.bias"),
        ("projector.bn0.running_mean", "projector.bn0.running_mean"),
        ("target_projector.fc1.weight", "target_projector.fc1.weight"),
        ("head.predictor.fc0.bias", "predictor.fc0.bias"),
    ],
)
def test_names_of_cmae(official: str, ours: str) -> None:
    assert cmae_name(official) == ours


@pytest.mark.parametrize("rename", [mae_name, cmae_name])
def test_a_name_without_a_rule_is_refused(rename: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match=r"no rule maps the official parameter 'head_2\.weight'"):
        rename("head_2.weight")


def test_numbers_are_read_from_the_config_text() -> None:
    answer = KnownAnswer("mae", {}, "patch 4 encoder 48x3 heads 3", "")
    assert answer.number(r"patch (\d+)") == 4
    assert answer.number(r"encoder \S+ heads (\d+)") == 3
    with pytest.raises(ValueError, match=r"'patch 4 encoder 48x3 heads 3' does not name 'tau"):
        answer.number(r"tau ([\d.]+)")


def test_tensors_under_a_prefix_lose_it() -> None:
    one = torch.ones(1)
    answer = KnownAnswer("mae", {"model.a.b": one, "grad.a.b": 2 * one}, "", "")
    assert answer.under("model.") == {"a.b": one}


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    save_file({"weights": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: not a known answer .* weights"):
        read_known_answer(tmp_path / "other.safetensors")


def test_an_mae_is_built_of_the_files_sizes(write_answer: Callable[[str], Path]) -> None:
    answer = read_known_answer(write_answer("mae"))
    assert (answer.kind, answer.source) == ("mae", "a test")
    method = build_from(answer)
    assert isinstance(method, MAE)
    assert method.config.mask_ratio == 0.75
    assert method.config.norm_pix_loss
    assert method.encoder.config.sizes == (16, 2, 2)
    assert (method.encoder.patch_size, method.encoder.image_size) == (4, (16, 16))
    assert len(method.pixel_decoder.blocks) == 1
    loaded = method.get_parameter("pixel_decoder.pred.weight")
    assert torch.equal(loaded, answer.tensors["model.decoder_pred.weight"])


def test_a_cmae_is_built_of_the_files_sizes(write_answer: Callable[[str], Path]) -> None:
    answer = read_known_answer(write_answer("cmae"))
    method = build_from(answer)
    assert isinstance(method, CMAE)
    config = method.config
    assert (config.mask_ratio, config.mask_block, config.temperature) == (0.65, 2, 0.2)
    assert (config.head_hidden_dim, config.head_out_dim, config.head_norm_eps) == (12, 6, 1e-6)
    assert (config.decoder.depth, config.decoder.num_heads) == (2, 2)
    assert (config.feature_decoder.depth, config.feature_decoder.num_heads) == (1, 4)
    loaded = method.get_parameter("target_encoder.patch_embed.proj.weight")
    assert torch.equal(
        loaded, answer.tensors["model.target_backbone.patch_embed.projection.weight"]
    )


def test_plain_batch_norms_bring_pytorchs_epsilon(write_answer: Callable[[str], Path]) -> None:
    answer = read_known_answer(write_answer("cmae"))
    method = build_from(replace(answer, config=f"{answer.config} BN1d train mode"))
    assert isinstance(method, CMAE)
    assert method.projector.bn0.eps == method.predictor.bn0.eps == 1e-5


def test_a_missing_weight_is_an_error(write_answer: Callable[[str], Path]) -> None:
    answer = read_known_answer(write_answer("mae"))
    answer.tensors.pop("model.norm.bias")
    with pytest.raises(RuntimeError, match=r"encoder\.norm\.bias"):
        build_from(answer)
