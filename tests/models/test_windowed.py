"""Windowed attention: the plain network's features where windows see all, and any grid."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.models.windowed import WindowedEncoder, even_blocks

SMALL = EncoderConfig(patch_size=8, embed_dim=32, depth=4, num_heads=2)


def encoder_of(size: tuple[int, int]) -> VisionEncoder:
    torch.manual_seed(0)
    return build_encoder(SMALL, size, 3)


def test_without_class_token_a_plain_transformer_gives_the_same_features() -> None:
    encoder = encoder_of((32, 48))
    plain = VisionTransformer(
        img_size=(32, 48),  # type: ignore[arg-type]
        patch_size=8,
        embed_dim=32,
        depth=4,
        num_heads=2,
        num_classes=0,
        global_pool="",
        class_token=False,
    )
    state = {k: v for k, v in encoder.state_dict().items() if k != "cls_token"}
    state["pos_embed"] = state["pos_embed"][:, 1:]
    plain.load_state_dict(state)
    images = torch.randn(2, 3, 32, 48)
    wide = WindowedEncoder(encoder, 8, (), rel_pos=False)  # one window holds the whole grid
    everywhere = WindowedEncoder(encoder, 2, (0, 1, 2, 3), rel_pos=True)  # zero at the start
    with torch.no_grad():
        expected = plain.blocks(plain._pos_embed(plain.patch_embed(images)))
        torch.testing.assert_close(everywhere.tokens(images), expected, atol=1e-4, rtol=1e-4)
        # Padding takes part in attention inside a window that is larger than the grid.
        assert wide.tokens(images).shape == expected.shape


def test_windows_keep_patches_apart() -> None:
    encoder = encoder_of((32, 32))
    apart = WindowedEncoder(encoder, 2, (), rel_pos=False)
    images = torch.randn(1, 3, 32, 32)
    changed = images.clone()
    changed[..., 16:, 16:] = 0  # the last of four windows
    with torch.no_grad():
        moved = (apart.tokens(images) - apart.tokens(changed)).abs().amax(dim=-1).reshape(4, 4)
    assert (moved[2:, 2:] > 0).all()
    assert not moved[:2].any()
    assert not moved[:, :2].any()


@pytest.mark.parametrize("size", [(32, 32), (40, 56), (8, 64)])
def test_any_grid_is_read_and_learns(size: tuple[int, int]) -> None:
    windows = WindowedEncoder(encoder_of(size), 3, (1, 3), rel_pos=True)
    tokens = windows.tokens(torch.randn(2, 3, *size))
    assert tokens.shape == (2, size[0] // 8 * (size[1] // 8), 32)
    tokens.square().sum().backward()
    used = {n for n, p in windows.named_parameters() if p.grad is not None}
    assert {"pos_embed", "blocks.0.attn.rel_pos_h", "patch_embed.proj.weight"} <= used


def test_weights_are_the_encoders() -> None:
    encoder = encoder_of((32, 32))
    windows = WindowedEncoder(encoder, 2, (3,), rel_pos=False)
    for name, value in encoder.blocks.state_dict().items():
        assert torch.equal(windows.blocks.state_dict()[name], value)


@pytest.mark.parametrize(("window", "blocks"), [(0, (1,)), (2, (4,))])
def test_impossible_windows_are_refused(window: int, blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the encoder's blocks are 0 to 3"):
        WindowedEncoder(encoder_of((32, 32)), window, blocks, rel_pos=False)


def test_global_blocks_divide_the_depth_evenly() -> None:
    assert even_blocks(12) == (2, 5, 8, 11)
    assert even_blocks(24) == (5, 11, 17, 23)
    assert even_blocks(32) == (7, 15, 23, 31)
    assert even_blocks(6) == (2, 5)
    assert even_blocks(4) == (3,)
    assert even_blocks(2) == (1,)
