"""Which parameter gets which weight decay and which learning rate."""

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from torch import nn

from contramask.methods.cmae import CMAE, CMAEConfig
from contramask.methods.conmim import ConMIM, ConMIMConfig
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, VisionEncoder
from contramask.train.optim import adamw, decay_groups, layer_decay_groups

DEPTH = 3


@pytest.fixture
def encoder() -> VisionEncoder:
    config = EncoderConfig(patch_size=8, embed_dim=32, depth=DEPTH, num_heads=2)
    return VisionEncoder((32, 32), 3, config)


@pytest.fixture
def cmae(encoder: VisionEncoder) -> CMAE:
    small = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
    config = CMAEConfig(decoder=small, feature_decoder=small, head_hidden_dim=32, head_out_dim=8)
    return CMAE(encoder, config)


def by_name(module: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """(lr_scale, weight_decay) by parameter name; every parameter at most once."""
    names = {id(p): name for name, p in module.named_parameters()}
    found: dict[str, tuple[float, float]] = {}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in found
            found[name] = (group["lr_scale"], group["weight_decay"])
    return found


def test_one_dim_spares_biases_and_norms_but_not_tokens(cmae: CMAE) -> None:
    found = by_name(cmae, decay_groups(cmae, 0.05, "one_dim"))
    trained = {name for name, p in cmae.named_parameters() if p.requires_grad}
    assert set(found) == trained
    assert found["encoder.cls_token"] == found["pixel_decoder.mask_token"] == (1.0, 0.05)
    assert found["encoder.blocks.0.attn.qkv.weight"] == (1.0, 0.05)
    assert found["encoder.blocks.0.attn.qkv.bias"] == (1.0, 0.0)
    assert found["encoder.norm.weight"] == found["projector.bn0.weight"] == (1.0, 0.0)


def test_cmaes_rule_spares_tokens_and_decays_batch_norm_gains(cmae: CMAE) -> None:
    found = by_name(cmae, decay_groups(cmae, 0.05, "cmae"))
    spared = {name for name, (_, decay) in found.items() if decay == 0}
    assert {"encoder.cls_token", "pixel_decoder.mask_token", "feature_decoder.mask_token"} <= spared
    assert {"projector.bn0.bias", "encoder.norm.weight", "pixel_decoder.norm.bias"} <= spared
    assert found["projector.bn0.weight"] == found["predictor.bn0.weight"] == (1.0, 0.05)
    # As CMAE's configs write it: whatever is called ln, bias, pos_embed, mask_token or cls_token.
    for name in found:
        kinds = ("norm", "bias", "pos_embed", "mask_token", "cls_token")
        assert (name in spared) == any(kind in name for kind in kinds)


def test_frozen_parameters_are_in_no_group(cmae: CMAE) -> None:
    found = by_name(cmae, decay_groups(cmae, 0.05, "cmae"))
    assert not [name for name in found if name.startswith("target_")]
    assert "encoder.pos_embed" not in found


def test_layer_decay_has_depth_plus_two_scales(encoder: VisionEncoder) -> None:
    encoder.pos_embed.requires_grad_(True)
    head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 5))
    whole = nn.ModuleDict({"encoder": encoder, "head": head})
    found = by_name(whole, layer_decay_groups(encoder, [head], 0.05, 0.75))
    assert set(found) == {name for name, _ in whole.named_parameters()}
    assert {scale for scale, _ in found.values()} == {0.75**i for i in range(DEPTH + 2)}
    for name in ("cls_token", "pos_embed", "patch_embed.proj.bias"):
        assert found[f"encoder.{name}"] == (0.75 ** (DEPTH + 1), 0.0)
    assert found["encoder.patch_embed.proj.weight"] == (0.75 ** (DEPTH + 1), 0.05)
    assert found["encoder.blocks.0.mlp.fc1.weight"] == (0.75**DEPTH, 0.05)
    assert found[f"encoder.blocks.{DEPTH - 1}.mlp.fc1.bias"] == (0.75, 0.0)
    assert found["encoder.norm.weight"] == found["head.1.bias"] == (1.0, 0.0)
    assert found["head.1.weight"] == (1.0, 0.05)


@pytest.mark.parametrize("decay", [0.65, 0.75, 1.0])
def test_layer_decay_equals_timms_for_a_mean_pooled_classifier(
    encoder: VisionEncoder, decay: float
) -> None:
    encoder.pos_embed.requires_grad_(True)
    ours = by_name(encoder, layer_decay_groups(encoder, [], 0.05, decay))
    sizes = {"embed_dim": 32, "depth": DEPTH, "num_heads": 2}
    pooled = VisionTransformer(img_size=32, patch_size=8, num_classes=5, global_pool="avg", **sizes)
    groups = param_groups_layer_decay(pooled, 0.05, pooled.no_weight_decay(), layer_decay=decay)
    theirs = by_name(pooled, groups)
    # Ours still has its final norm, theirs the fresh norm and the head.
    assert set(ours) - set(theirs) == {"norm.weight", "norm.bias"}
    for name in set(theirs) - set(ours):
        assert name.startswith(("fc_norm", "head"))
        assert theirs[name][0] == 1.0
    for name in set(theirs) & set(ours):
        assert ours[name] == (pytest.approx(theirs[name][0]), theirs[name][1])


def test_adamw_scales_the_rate_of_each_group(encoder: VisionEncoder) -> None:
    groups = layer_decay_groups(encoder, [], 0.05, 0.5)
    optimizer = adamw(groups, 0.1, (0.9, 0.999))
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    for group in optimizer.param_groups:
        assert group["lr"] == group["peak_lr"] == pytest.approx(0.1 * group["lr_scale"])


def test_adamw_takes_modules_without_decayed_parameters() -> None:
    optimizer = adamw(decay_groups(nn.LayerNorm(4), 0.05, "one_dim"), 0.1)
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]


def test_weight_decay_shrinks_what_it_should() -> None:
    layer = nn.Linear(3, 3)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    optimizer = adamw(decay_groups(layer, 0.5, "one_dim"), 0.1)
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias.detach(), before["bias"])


def test_beits_rule_spares_class_token_and_positions_but_not_mask_token_and_bias_tables() -> None:
    config = ConMIMConfig(
        head_hidden_dim=8, head_out_dim=4, beit=BeitConfig(absolute_positions=True)
    )
    sizes = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
    method = ConMIM(build_beit(sizes, config.beit, (32, 32), 3), config)
    found = by_name(method, decay_groups(method, 0.05, "beit"))
    assert not [name for name in found if name.startswith("target_")]
    for name in ("cls_token", "pos_embed", "blocks.0.gamma_1", "blocks.1.attn.q_bias", "norm.bias"):
        assert found[f"online_encoder.{name}"] == (1.0, 0.0)
    table = "online_encoder.rel_pos_bias.relative_position_bias_table"
    assert found["mask_token"] == found[table] == found["projector.fc0.weight"] == (1.0, 0.05)
    assert found["projector.bn0.weight"] == (1.0, 0.0)
