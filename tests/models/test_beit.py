"""BEiT's encoder: timm's to the last weight, relative positions, mask tokens, visible patches."""

from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from torch import Tensor, nn

from contramask.masking import random_mask
from contramask.models.beit import BeitConfig, BeitEncoder, build_beit
from contramask.models.encoder import EncoderConfig
from contramask.train.optim import layer_decay_groups

Size = tuple[int, int]
TINY = EncoderConfig(patch_size=4, embed_dim=16, depth=2, num_heads=2)
KINDS: list[dict[str, Any]] = [{}, {"absolute_positions": True}, {"position_bias": "per_block"}]
TABLE = "rel_pos_bias.relative_position_bias_table"


def tiny(size: Size = (16, 24), channels: int = 3, **settings: Any) -> BeitEncoder:
    """A small encoder with every weight moved, so that nothing hides behind an initial value."""
    torch.manual_seed(0)
    encoder = build_beit(TINY, BeitConfig(**settings), size, channels)
    for parameter in encoder.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return encoder


def timms(size: Size, channels: int, beit: BeitConfig) -> Beit:
    """timm's own Beit of the same sizes."""
    return Beit(
        img_size=size,
        patch_size=4,
        in_chans=channels,
        num_classes=0,
        global_pool="",
        embed_dim=16,
        depth=2,
        num_heads=2,
        init_values=0.5,  # overwritten by the loaded weights
        use_abs_pos_emb=beit.absolute_positions,
        use_rel_pos_bias=beit.position_bias == "per_block",
        use_shared_rel_pos_bias=beit.position_bias == "shared",
    )


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize(
    ("size", "channels"), [((16, 24), 3), ((32, 32), 1), ((24, 16), 5), ((4, 32), 3)]
)
def test_the_weights_load_strictly_in_timm_and_compute_the_same(
    size: Size, channels: int, settings: dict[str, Any]
) -> None:
    encoder = tiny(size, channels, **settings)
    model = timms(size, channels, encoder.beit)
    model.load_state_dict(encoder.state_dict(), strict=True)
    images = torch.randn(2, channels, *size)
    ours, theirs = encoder.forward_tokens(images), model.forward_features(images)
    assert ours.shape == (2, 1 + encoder.num_patches, 16)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("arch", "millions"), [("vit_small", 21.6), ("vit_base", 85.7), ("vit_large", 303.1)]
)
def test_parameter_counts_are_the_published_ones(arch: str, millions: float) -> None:
    with torch.device("meta"):
        sizes = EncoderConfig(arch=arch, patch_size=16)  # type: ignore[arg-type]
        encoder = build_beit(sizes, BeitConfig(), (224, 224), 3)
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == millions
    assert encoder.get_parameter(TABLE).shape == (732, sizes.sizes[2])


def test_initial_weights_are_conmims() -> None:
    sizes = EncoderConfig(patch_size=8, embed_dim=192, depth=3, num_heads=3)
    encoder = build_beit(sizes, BeitConfig(layer_scale=0.3), (32, 32), 3)
    weights = {name: p.detach() for name, p in encoder.named_parameters()}
    for name in ("patch_embed.proj.weight", "blocks.1.attn.qkv.weight", "blocks.2.mlp.fc1.weight"):
        assert weights[name].abs().max() <= 0.02
        assert float(weights[name].std()) == pytest.approx(0.54 * 0.02, rel=0.02)
    for block in range(3):  # the two that end a residual branch shrink with depth
        for name in ("attn.proj", "mlp.fc2"):
            std = 0.54 * 0.02 / (2 * (block + 1)) ** 0.5
            assert float(weights[f"blocks.{block}.{name}.weight"].std()) == pytest.approx(
                std, rel=0.03
            )
    assert not weights[TABLE].any()
    assert not weights["blocks.0.attn.q_bias"].any()
    assert (weights["blocks.0.gamma_1"] == 0.3).all()
    assert encoder.norm.eps == 1e-6


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"30x32 px cannot be cut .*encoder\.patch_size"):
        build_beit(TINY, BeitConfig(), (30, 32), 3)
    with pytest.raises(ValueError, match="18 wide cannot be split into 4 heads"):
        build_beit(EncoderConfig(embed_dim=18, num_heads=4), BeitConfig(), (32, 32), 3)
    with pytest.raises(ValueError, match=r"reads images of \(16, 24\).* not \(24, 16\)"):
        tiny().tokens(torch.rand(1, 3, 24, 16))


def test_a_token_knows_its_place_only_by_offsets() -> None:
    """With a bias table of zeros nothing tells places apart: patches moved, tokens moved."""
    encoder = tiny((16, 16))
    nn.init.zeros_(encoder.get_parameter(TABLE))
    order = torch.randperm(16)
    embedded = encoder.embed(torch.randn(2, 3, 16, 16))
    moved = torch.cat([embedded[:, :1], embedded[:, 1:][:, order]], dim=1)
    expected = encoder.run_blocks(embedded)[:, 1:][:, order]
    torch.testing.assert_close(encoder.run_blocks(moved)[:, 1:], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", KINDS[:2])
def test_visible_patches_keep_their_positions(settings: dict[str, Any]) -> None:
    encoder, images = tiny(**settings), torch.randn(3, 3, 16, 24)
    everything = encoder.tokens(images)
    order = torch.stack([torch.randperm(24) for _ in range(3)])
    shuffled = encoder.tokens(images, order)
    expected = everything[:, 1:].gather(1, order[..., None].expand(-1, -1, 16))
    torch.testing.assert_close(shuffled[:, 1:], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shuffled[:, 0], everything[:, 0], atol=1e-5, rtol=1e-4)


def test_what_is_not_kept_is_not_read() -> None:
    encoder, images = tiny((16, 16)), torch.randn(2, 3, 16, 16)
    mask = random_mask(torch.rand(2, 16), 0.75)
    seen = encoder.tokens(images, mask.ids_keep)
    pixels = mask.mask.reshape(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other = torch.where(pixels, torch.randn_like(images), images)
    assert seen.shape == (2, 5, 16)
    torch.testing.assert_close(encoder.tokens(other, mask.ids_keep), seen)
    assert not torch.allclose(encoder.tokens(other), encoder.tokens(images))


def test_blocks_with_biases_of_their_own_refuse_some_of_the_patches() -> None:
    encoder = tiny(position_bias="per_block")
    with pytest.raises(ValueError, match="position_bias=per_block reads whole images only"):
        encoder.tokens(torch.rand(1, 3, 16, 24), torch.zeros(1, 4, dtype=torch.int64))


@pytest.mark.parametrize("settings", KINDS[:2])
def test_hidden_patches_are_replaced_by_the_mask_token(settings: dict[str, Any]) -> None:
    encoder, images, token = tiny(**settings), torch.randn(2, 3, 16, 24), torch.randn(1, 1, 16)
    mask = random_mask(torch.rand(2, 24), 0.75).mask
    masked = encoder.embed_masked(images, mask, token)
    plain = encoder.embed(images)
    positions = torch.zeros(1, 25, 16) if encoder.pos_embed is None else encoder.pos_embed
    assert torch.equal(masked[:, 1:][~mask], plain[:, 1:][~mask])
    torch.testing.assert_close(
        masked[:, 1:][mask], (token + positions[:, 1:]).expand(2, -1, -1)[mask]
    )
    assert torch.equal(encoder.embed_masked(images, torch.zeros_like(mask), token), plain)
    expected = encoder.norm(encoder.run_blocks(masked))
    assert torch.equal(encoder.forward_masked(images, mask, token), expected)


def test_maps_of_blocks_are_timms() -> None:
    encoder, images = tiny(), torch.randn(2, 3, 16, 24)
    maps = encoder.forward_intermediates(
        images, indices=[0, 1], norm=False, output_fmt="NCHW", intermediates_only=True
    )
    assert [tuple(m.shape) for m in maps] == [(2, 16, 4, 6)] * 2
    last = encoder.tokens(images)[:, 1:].transpose(1, 2).reshape(2, 16, 4, 6)
    torch.testing.assert_close(maps[1], last, atol=1e-5, rtol=1e-4)


def offsets(encoder: BeitEncoder, name: str = TABLE) -> Tensor:
    """A bias table as a map over offsets, (heads, 2 rows - 1, 2 cols - 1)."""
    rows, cols = encoder.grid_size
    table = encoder.get_parameter(name).detach()
    return table[:-3].T.reshape(-1, 2 * rows - 1, 2 * cols - 1)


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("size", [(32, 48), (24, 24), (8, 48)])
def test_a_resized_copy_keeps_near_offsets_and_the_class_rows(
    size: Size, settings: dict[str, Any]
) -> None:
    encoder = tiny(**settings)
    copy = encoder.resized(size)
    assert copy.grid_size == (size[0] // 4, size[1] // 4)
    assert copy.forward_tokens(torch.randn(1, 3, *size)).isfinite().all()
    name = next(n for n, _ in encoder.named_parameters() if n.endswith("bias_table"))
    before, after = offsets(encoder, name), offsets(copy, name)
    middles = [(m.shape[1] // 2, m.shape[2] // 2) for m in (before, after)]
    for row in (-1, 0, 1):
        for col in (-1, 0, 1):
            old, new = ((y + row, x + col) for y, x in middles)
            torch.testing.assert_close(after[:, *new], before[:, *old], atol=1e-4, rtol=1e-4)
    class_rows = copy.get_parameter(name)[-3:]
    assert torch.equal(class_rows, encoder.get_parameter(name)[-3:])


def test_a_copy_of_the_same_size_is_the_same_network_apart() -> None:
    encoder, images = tiny(absolute_positions=True), torch.randn(1, 3, 16, 24)
    encoder.requires_grad_(False)  # as a target network's is
    copy = encoder.resized((16, 24))
    assert torch.equal(copy.tokens(images), encoder.tokens(images))
    assert all(p.requires_grad for p in copy.parameters())
    nn.init.zeros_(copy.cls_token)
    assert encoder.cls_token.any()


def test_own_biases_start_from_the_shared_one() -> None:
    encoder, images = tiny(), torch.randn(2, 3, 16, 24)
    copy = encoder.unshared()
    assert copy.beit.position_bias == "per_block"
    torch.testing.assert_close(copy.tokens(images), encoder.tokens(images))
    tables = [p for name, p in copy.named_parameters() if name.endswith("bias_table")]
    assert len(tables) == 2
    assert tables[0].data_ptr() != tables[1].data_ptr()
    torch.testing.assert_close(copy.unshared().tokens(images), encoder.tokens(images))


def test_layers_of_fine_tuning() -> None:
    encoder = tiny(absolute_positions=True)
    groups = layer_decay_groups(encoder, [], 0.05, 0.5)  # type: ignore[arg-type]
    names = {id(p): name for name, p in encoder.named_parameters()}
    found = {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }
    assert len(found) == len(names)
    assert found[TABLE] == found["patch_embed.proj.weight"] == (0.125, 0.05)
    assert found["cls_token"] == found["pos_embed"] == (0.125, 0.0)
    assert found["blocks.0.gamma_1"] == found["blocks.0.attn.q_bias"] == (0.25, 0.0)
    assert found["blocks.1.attn.qkv.weight"] == (0.5, 0.05)
    assert found["norm.weight"] == (1.0, 0.0)


def test_everything_is_trained_and_tokens_stay_float32_under_autocast() -> None:
    encoder = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        tokens = encoder.forward_masked(
            torch.randn(2, 3, 16, 24), torch.rand(2, 24) > 0.5, torch.zeros(1, 1, 16)
        )
    assert tokens.dtype == torch.float32
    tokens.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())
