"""The encoder: patches, positions, dropped patches, and that it is timm's to the last weight."""

import numpy as np
import pytest
import timm
import torch
from torch import nn

from contramask.masking import random_mask, take_tokens
from contramask.models.encoder import (
    ARCHITECTURES,
    EncoderConfig,
    VisionEncoder,
    build_encoder,
    mae_init,
    patchify,
    sincos_positions,
    unpatchify,
)
from contramask.models.family import describe

TINY = EncoderConfig(patch_size=4, embed_dim=24, depth=2, num_heads=2)
SHAPES = [
    (size, channels, patch)
    for size in [(64, 64), (96, 160), (32, 32)]
    for channels in (1, 3, 5)
    for patch in (8, 16, 4)
]


def perturbed(encoder: VisionEncoder) -> VisionEncoder:
    """The same encoder with every weight moved, so that nothing hides behind an initial value."""
    generator = torch.Generator().manual_seed(1)
    for parameter in encoder.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return encoder


def closed_form(embed_dim: int, rows: int, cols: int) -> np.ndarray:
    """Sine-cosine positions by the formula, value by value: column first, class row zero."""
    table = np.zeros((1 + rows * cols, embed_dim))
    quarter = embed_dim // 4
    for row in range(rows):
        for col in range(cols):
            for half, place in enumerate((col, row)):
                for k in range(quarter):
                    angle = place * 10000 ** (-k / quarter)
                    start = half * 2 * quarter + k
                    table[1 + row * cols + col, start] = np.sin(angle)
                    table[1 + row * cols + col, start + quarter] = np.cos(angle)
    return table


def test_patches_are_read_row_by_row_and_inside_by_row_column_channel() -> None:
    images = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)  # channel 1 is channel 0 plus 24
    patches = patchify(images, 2)
    assert patches.shape == (1, 6, 8)
    assert patches[0, 0].tolist() == [0, 24, 1, 25, 6, 30, 7, 31]
    assert patches[0, 1].tolist() == [2, 26, 3, 27, 8, 32, 9, 33]
    assert patches[0, 3, 0] == 12  # the second row of patches starts at pixel row 2


@pytest.mark.parametrize(("size", "channels", "patch"), SHAPES)
def test_unpatchify_is_the_exact_inverse(size: tuple[int, int], channels: int, patch: int) -> None:
    images = torch.rand(2, channels, *size)
    patches = patchify(images, patch)
    grid = (size[0] // patch, size[1] // patch)
    assert patches.shape == (2, grid[0] * grid[1], patch * patch * channels)
    assert torch.equal(unpatchify(patches, grid, patch), images)


def test_images_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(ValueError, match="30x32 px cannot be cut into patches of 4 px"):
        patchify(torch.rand(1, 3, 30, 32), 4)
    with pytest.raises(ValueError, match=r"encoder\.patch_size to a divisor"):
        build_encoder(TINY, (32, 30), 3)


@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (5, 2)])
def test_positions_are_the_closed_form(grid: tuple[int, int]) -> None:
    table = sincos_positions(16, grid)
    assert table.shape == (1, 1 + grid[0] * grid[1], 16)
    assert table.dtype == torch.float32
    np.testing.assert_allclose(table[0].numpy(), closed_form(16, *grid), atol=1e-6)


def test_the_class_token_has_no_position() -> None:
    assert torch.equal(sincos_positions(32, (4, 4))[0, 0], torch.zeros(32))


def test_the_first_half_encodes_the_column() -> None:
    table = sincos_positions(8, (2, 3))[0, 1:].reshape(2, 3, 8)
    assert torch.equal(table[0, :, :4], table[1, :, :4])  # a column's is the same in each row
    assert torch.equal(table[:, 0, 4:], table[:, 2, 4:])
    assert not torch.equal(table[:, 0, :4], table[:, 1, :4])


def test_positions_of_a_width_that_four_does_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 4, not 30"):
        sincos_positions(30, (2, 2))


def test_positions_are_fixed_and_everything_else_is_trained() -> None:
    encoder = build_encoder(TINY, (16, 24), 3)
    fixed = [name for name, p in encoder.named_parameters() if not p.requires_grad]
    assert fixed == ["pos_embed"]
    assert torch.equal(encoder.pos_embed, sincos_positions(24, (4, 6)))
    encoder.forward_tokens(torch.rand(2, 3, 16, 24)).sum().backward()
    assert encoder.pos_embed.grad is None
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)


def test_initial_weights_are_maes() -> None:
    encoder = build_encoder(EncoderConfig(patch_size=8, embed_dim=192, num_heads=3), (32, 32), 3)
    qkv = encoder.get_parameter("blocks.0.attn.qkv.weight")
    assert qkv.abs().max() <= (6 / (192 + 576)) ** 0.5  # Xavier's bound over the joint matrix
    assert float(qkv.detach().std()) == pytest.approx((2 / (192 + 576)) ** 0.5, rel=0.02)
    patch = encoder.patch_embed.proj.weight
    assert patch.abs().max() <= (6 / (192 + 192)) ** 0.5
    assert float(patch.detach().std()) == pytest.approx((2 / (192 + 192)) ** 0.5, rel=0.02)
    assert float(encoder.cls_token.detach().std()) == pytest.approx(0.02, rel=0.2)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        if "norm" in name and name.endswith("weight"):
            assert (parameter == 1).all(), name


def test_mae_init_takes_linear_layers_without_bias() -> None:
    layer = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4))
    nn.init.zeros_(layer[1].weight)
    mae_init(layer)
    assert (layer[1].weight == 1).all()


@pytest.mark.parametrize(("size", "channels", "patch"), SHAPES)
def test_every_size_channel_count_and_patch_size_works(
    size: tuple[int, int], channels: int, patch: int
) -> None:
    config = EncoderConfig(patch_size=patch, embed_dim=16, depth=1, num_heads=2)
    encoder = build_encoder(config, size, channels)
    rows, cols = size[0] // patch, size[1] // patch
    assert encoder.grid_size == (rows, cols)
    assert encoder.num_patches == rows * cols
    tokens = encoder.forward_tokens(torch.rand(1, channels, *size))
    assert tokens.shape == (1, 1 + rows * cols, 16)
    features = encoder.forward_intermediates(
        torch.rand(1, channels, *size), indices=[0], output_fmt="NCHW", intermediates_only=True
    )
    assert features[0].shape == (1, 16, rows, cols)


@pytest.mark.parametrize("size", [(32, 32), (16, 24)])
def test_dropping_before_the_embedding_equals_timms_convolution_then_dropping(
    size: tuple[int, int],
) -> None:
    encoder = perturbed(build_encoder(TINY, size, 3))
    images = torch.randn(3, 3, *size)
    ids = random_mask(torch.rand(3, encoder.num_patches), 0.75).ids_keep
    convolved = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
    expected = take_tokens(convolved, ids)
    embedded = encoder.embed(images, ids)
    torch.testing.assert_close(embedded[:, 1:], expected, rtol=1e-5, atol=1e-5)
    cls = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(3, -1, -1)
    assert torch.equal(embedded[:, :1], cls)


def test_the_order_of_visible_patches_carries_no_meaning() -> None:
    encoder = perturbed(build_encoder(TINY, (16, 16), 3))
    images, ids = torch.randn(1, 3, 16, 16), torch.tensor([[3, 8, 11, 2]])
    order = torch.tensor([2, 0, 3, 1])
    straight = encoder.forward_tokens(images, ids)[:, 1:][:, order]
    shuffled = encoder.forward_tokens(images, ids[:, order])[:, 1:]
    torch.testing.assert_close(straight, shuffled, rtol=1e-4, atol=1e-5)


def test_hidden_pixels_are_not_seen() -> None:
    encoder = perturbed(build_encoder(TINY, (16, 16), 3))
    images = torch.randn(2, 3, 16, 16)
    mask = random_mask(torch.rand(2, 16), 0.5)
    patches = patchify(images, 4)
    patches[mask.mask] = 100.0
    changed = unpatchify(patches, (4, 4), 4)
    assert torch.equal(
        encoder.forward_tokens(images, mask.ids_keep),
        encoder.forward_tokens(changed, mask.ids_keep),
    )


def test_images_of_another_size_are_refused() -> None:
    encoder = build_encoder(TINY, (16, 24), 3)
    with pytest.raises(ValueError, match=r"reads images of \(16, 24\) .* not \(24, 16\)"):
        encoder.tokens(torch.rand(1, 3, 24, 16))  # as many patches, but other positions


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"128 wide cannot be split into 3 heads; change pretrain"):
        build_encoder(EncoderConfig(num_heads=3), (32, 32), 3)


@pytest.mark.parametrize("pool", ["", "token"])
def test_a_plain_timm_model_loads_the_weights_and_computes_the_same(pool: str) -> None:
    torch.manual_seed(0)
    ours = perturbed(build_encoder(EncoderConfig(arch="vit_tiny", patch_size=16), (224, 224), 3))
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool=pool)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.eval().forward_features(images)
        tokens = ours.eval().forward_tokens(images)
        torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(theirs.norm(ours.tokens(images)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", [name for name in ARCHITECTURES if name != "vit_nano"])
def test_architectures_have_timms_sizes(arch: str) -> None:
    with torch.device("meta"):
        theirs = timm.create_model(
            f"{arch}_patch{14 if arch == 'vit_huge' else 16}_224", num_classes=0, global_pool=""
        )
        config = EncoderConfig(arch=arch, patch_size=theirs.patch_embed.patch_size[0])  # type: ignore[arg-type]
        ours = build_encoder(config, (224, 224), 3)
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}
    assert len(ours.blocks) == len(theirs.blocks)
    assert ours.config.sizes[2] == theirs.blocks[0].attn.num_heads
    assert ours.num_prefix_tokens == 1


def test_resized_keeps_the_weights_and_resamples_the_positions() -> None:
    encoder = perturbed(build_encoder(TINY, (16, 16), 3))
    larger = encoder.resized((24, 32))
    assert larger.grid_size == (6, 8)
    assert larger.image_size == (24, 32)
    for name, value in encoder.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(larger.state_dict()[name], value), name
    assert torch.equal(larger.pos_embed[:, 0], encoder.pos_embed[:, 0])
    assert larger.forward_tokens(torch.rand(2, 3, 24, 32)).shape == (2, 49, 24)
    # Smooth positions stay what they are near where they were: the corner patches.
    corners = larger.pos_embed[0, 1:].reshape(6, 8, 24)[[0, -1], [0, -1]]
    before = encoder.pos_embed[0, 1:].reshape(4, 4, 24)[[0, -1], [0, -1]]
    assert (corners - before).abs().mean() < 0.15


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_resized_to_its_own_size_is_an_equal_copy(size: tuple[int, int]) -> None:
    encoder = perturbed(build_encoder(TINY, size, 3))
    copy = encoder.resized(size)
    torch.testing.assert_close(copy.state_dict(), encoder.state_dict(), rtol=1e-5, atol=1e-5)
    copy.cls_token.data += 1
    assert not torch.equal(copy.cls_token, encoder.cls_token)


def test_a_description_is_plain_and_complete() -> None:
    encoder = build_encoder(TINY, (16, 24), 5)
    facts = describe(encoder)
    assert facts | {"config": None} == {
        "kind": "vit",
        "image_size": [16, 24],
        "in_chans": 5,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "patch_size": 4,
        "config": None,
    }
    assert EncoderConfig(**facts["config"]) == TINY


def test_fine_tuning_can_free_the_positions() -> None:
    encoder = build_encoder(TINY, (16, 16), 3)
    encoder.pos_embed.requires_grad_(True)
    encoder.tokens(torch.rand(2, 3, 16, 16)).sum().backward()
    assert encoder.pos_embed.grad is not None
    assert encoder.pos_embed.grad[:, 1:].abs().sum() > 0
