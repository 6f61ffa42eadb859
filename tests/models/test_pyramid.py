"""Feature pyramids: sizes for any grid, taps, and agreement with the encoder's own tokens."""

import pytest
import torch

from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.models.pyramid import SimplePyramid, TapPyramid, even_taps, tap_maps


def encoder_for(image_size: tuple[int, int], depth: int = 3) -> VisionEncoder:
    torch.manual_seed(0)
    config = EncoderConfig(patch_size=4, embed_dim=16, depth=depth, num_heads=2)
    return build_encoder(config, image_size, 3)


@pytest.mark.parametrize(
    ("depth", "taps"),
    [(12, (2, 5, 8, 11)), (24, (5, 11, 17, 23)), (6, (1, 2, 4, 5)), (2, (0, 0, 1, 1))],
)
def test_taps_are_evenly_spaced_and_end_with_the_last_block(
    depth: int, taps: tuple[int, ...]
) -> None:
    assert even_taps(depth) == taps


def test_tap_maps_are_the_block_outputs_before_the_norm() -> None:
    encoder = encoder_for((16, 24)).eval()
    images = torch.randn(2, 3, 16, 24)
    first, again, last = tap_maps(encoder, images, (0, 0, 2))
    assert last.shape == (2, 16, 4, 6)
    assert torch.equal(first, again)
    tokens = encoder.tokens(images)[:, 1:]
    assert torch.allclose(last.flatten(2).transpose(1, 2), tokens, atol=1e-5)
    assert not torch.allclose(first, last)


def test_unknown_taps_are_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 2"):
        tap_maps(encoder_for((8, 8)), torch.zeros(1, 3, 8, 8), (0, 3))


@pytest.mark.parametrize("grid", [(8, 8), (5, 7), (1, 3)])
def test_tap_pyramid_rescales_square_and_other_grids(grid: tuple[int, int]) -> None:
    rows, cols = grid
    levels = TapPyramid(8)([torch.randn(2, 8, rows, cols) for _ in range(4)])
    halved = (-(-rows // 2), -(-cols // 2))
    expected = [(4 * rows, 4 * cols), (2 * rows, 2 * cols), grid, halved]
    assert [tuple(level.shape) for level in levels] == [(2, 8, *size) for size in expected]


@pytest.mark.parametrize("grid", [(8, 8), (6, 10), (5, 7)])
def test_simple_pyramid_makes_all_levels_from_one_map(grid: tuple[int, int]) -> None:
    rows, cols = grid
    pyramid = SimplePyramid(16, 12, (4.0, 2.0, 1.0, 0.5))
    tap = torch.randn(2, 16, rows, cols, requires_grad=True)
    levels = pyramid(tap)
    assert list(levels) == ["x4", "x2", "x1", "x0.5", "pool"]
    sizes = {name: tuple(level.shape[2:]) for name, level in levels.items()}
    assert sizes["x4"] == (4 * rows, 4 * cols)
    assert sizes["x1"] == grid
    assert sizes["x0.5"] == (-(-rows // 2), -(-cols // 2))
    assert sizes["pool"] == (-(-rows // 4), -(-cols // 4))
    assert {level.shape[1] for level in levels.values()} == {12}
    assert pyramid.scales == (4.0, 2.0, 1.0, 0.5, 0.25)
    sum(level.sum() for level in levels.values()).backward()
    assert tap.grad is not None
    assert tap.grad.abs().sum() > 0


@pytest.mark.parametrize("scales", [(), (3.0, 1.0), (1.0, 2.0), (2.0, 2.0)])
def test_simple_pyramid_refuses_other_scales(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="scales"):
        SimplePyramid(16, 8, scales)
