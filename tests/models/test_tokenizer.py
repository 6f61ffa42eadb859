"""The tokenizer network: one token a patch, in the right place, from the right pixels."""

import pytest
import torch
from torch import Tensor

from contramask.models.codebook import CodebookConfig
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.tokenizer import TokenizerNetConfig, VQTokenizer, stride_of

NET = TokenizerNetConfig(widths=(8, 12))


def tokenizer_for(images: Tensor, patch: int, codes: int = 32) -> VQTokenizer:
    """An untrained network, its codes placed on what it makes of the images."""
    torch.manual_seed(0)
    made = VQTokenizer(patch, images.shape[1], codes, NET, CodebookConfig(dim=6))
    with torch.no_grad():
        made.codebook.start(made.features(made.scaled(images)).flatten(0, 1), seed=0)
    return made


def pictures(size: tuple[int, int], channels: int = 3, count: int = 4) -> Tensor:
    return torch.rand(count, channels, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("patch", "stride"), [(2, 2), (4, 4), (5, 8), (14, 16), (16, 16)])
def test_a_token_reads_a_power_of_two(patch: int, stride: int) -> None:
    assert stride_of(patch) == stride


@pytest.mark.parametrize(
    ("patch", "size", "channels"),
    [(4, (16, 24), 3), (8, (32, 32), 1), (14, (28, 42), 3), (6, (12, 18), 5), (2, (8, 6), 3)],
)
def test_the_grid_is_the_encoders(patch: int, size: tuple[int, int], channels: int) -> None:
    images = pictures(size, channels, count=8)
    made = tokenizer_for(images, patch, codes=4)
    sizes = EncoderConfig(patch_size=patch, embed_dim=16, depth=1, num_heads=2)
    encoder = build_encoder(sizes, size, channels)
    ids = made.encode(images)
    assert made.grid_of(images) == encoder.grid_size
    assert ids.shape == (8, encoder.num_patches)
    assert ids.dtype == torch.int64
    assert 0 <= int(ids.min()) <= int(ids.max()) < 4
    drawn = made.decode(ids, encoder.grid_size)
    assert drawn.shape == images.shape
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


@pytest.mark.parametrize("grid", [14, 16])
@pytest.mark.parametrize(("row", "col"), [(3, 9), (11, 5)])
def test_a_painted_patch_changes_tokens_around_it_only(grid: int, row: int, col: int) -> None:
    """Numbered row by row, as the encoder's patches; a token reads two patches far at most."""
    images = 0.4 + 0.2 * pictures((4 * grid, 4 * grid), count=1)
    made = tokenizer_for(images, 4)
    painted = images.clone()
    colour = torch.tensor([1.0, 0.0, 0.5]).reshape(3, 1, 1)
    painted[:, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = colour
    with torch.no_grad():
        before, after = (made.features(made.scaled(x)) for x in (images, painted))
    change = (after - before).norm(dim=-1).reshape(grid, grid)
    rows, cols = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    distance = torch.maximum((rows - row).abs(), (cols - col).abs())
    assert float(change[distance > 2].max()) == pytest.approx(0, abs=1e-5)
    centre = [float((change * place).sum() / change.sum()) for place in (rows, cols)]
    assert centre == pytest.approx([row, col], abs=0.3)
    differ = (made.encode(images) != made.encode(painted)).reshape(grid, grid)
    assert bool(differ[row, col])


def test_images_are_resized_for_patches_that_are_no_power_of_two() -> None:
    images = pictures((28, 42))
    made = tokenizer_for(images, 14, codes=4)
    assert made.scaled(images).shape == (4, 3, 32, 48)
    flat = torch.full_like(images, 0.25)
    torch.testing.assert_close(made.scaled(flat), torch.full((4, 3, 32, 48), -0.5))


def test_tokens_do_not_depend_on_the_precision_around() -> None:
    images = pictures((32, 32), count=8)
    made = tokenizer_for(images, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ids = made.encode(images)
    assert torch.equal(ids, made.encode(images))


def test_encoding_changes_nothing() -> None:
    images = pictures((16, 16))
    made = tokenizer_for(images, 4, codes=8).train()
    before = {k: v.clone() for k, v in made.state_dict().items()}
    made.decode(made.encode(images), (4, 4))
    assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())


def test_images_of_another_kind_are_refused() -> None:
    made = tokenizer_for(pictures((16, 16)), 4, codes=8)
    with pytest.raises(ValueError, match="reads 3 channels and was given 1"):
        made.encode(pictures((16, 16), channels=1))
    with pytest.raises(ValueError, match="18x16 px cannot be cut into tokens of 4 px"):
        made.encode(pictures((18, 16)))
