"""Masks: how many patches stay, which ones, and that numbers and polarity agree."""

import pytest
import torch

from contramask.masking import (
    PatchMask,
    block_mask,
    check_mask,
    num_cells,
    num_visible,
    random_mask,
    take_positions,
    take_tokens,
)


def check_consistent(mask: PatchMask, batch: int, length: int) -> None:
    """ids_keep and ids_hide together name every patch once, and the mask marks the hidden ones."""
    order = torch.cat([mask.ids_keep, mask.ids_hide], dim=1)
    assert torch.equal(order.sort(dim=1).values, torch.arange(length).expand(batch, -1))
    assert mask.mask.dtype == torch.bool
    assert mask.mask.gather(1, mask.ids_hide).all()
    assert not mask.mask.gather(1, mask.ids_keep).any()


@pytest.mark.parametrize(
    ("length", "ratio", "visible"),
    [(196, 0.75, 49), (64, 0.75, 16), (196, 0.5, 98), (196, 0.9, 19), (49, 0.65, 17), (10, 0.6, 4)],
)
def test_the_number_of_visible_patches_is_rounded_down(
    length: int, ratio: float, visible: int
) -> None:
    mask = random_mask(torch.rand(3, length), ratio)
    assert mask.ids_keep.shape == (3, visible)
    assert (~mask.mask).sum(dim=1).tolist() == [visible] * 3
    check_consistent(mask, 3, length)


def test_the_largest_noise_is_hidden() -> None:
    mask = random_mask(torch.tensor([[0.1, 0.9, 0.5, 0.3]]), 0.5)
    assert mask.ids_keep.tolist() == [[0, 3]]
    assert mask.ids_hide.tolist() == [[2, 1]]
    assert mask.mask.tolist() == [[False, True, True, False]]


def test_equal_noise_is_decided_by_the_patch_number() -> None:
    mask = random_mask(torch.zeros(1, 300), 0.5)
    assert mask.ids_keep.tolist() == [list(range(150))]


def test_images_of_a_batch_are_masked_differently() -> None:
    mask = random_mask(torch.rand(2, 196), 0.75)
    assert not torch.equal(mask.mask[0], mask.mask[1])


@pytest.mark.parametrize("ratio", [0.05, 0.95])
def test_a_mask_of_everything_or_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"mask ratio of {ratio} leaves . of . patches visible"):
        random_mask(torch.rand(1, 1 if ratio < 0.5 else 4), ratio)


def test_cmae_keeps_17_cells_and_68_patches() -> None:
    assert num_cells((14, 14), 2) == 49
    mask = block_mask(torch.rand(5, 49), 0.65, (14, 14), 2)
    assert mask.ids_keep.shape == (5, 68)
    assert mask.ids_hide.shape == (5, 128)
    check_consistent(mask, 5, 196)
    cells = mask.mask.reshape(5, 7, 2, 7, 2).float().mean(dim=(2, 4))
    assert ((cells == 0) | (cells == 1)).all()  # each cell wholly hidden or wholly kept
    assert (cells == 0).sum(dim=(1, 2)).tolist() == [17] * 5


def test_the_cells_with_the_largest_noise_are_hidden_on_a_grid_that_is_not_square() -> None:
    noise = torch.tensor([[0.1, 0.9, 0.5]])  # 1 x 3 cells of 2x2 on 2 x 6 patches
    mask = block_mask(noise, 0.6, (2, 6), 2)
    rows = [[False, False, True, True, True, True]] * 2
    assert mask.mask.reshape(2, 6).tolist() == rows
    assert mask.ids_keep.tolist() == [[0, 1, 6, 7]]


def test_cells_of_one_patch_are_mae_masking() -> None:
    noise = torch.rand(4, 24)
    plain, cells = random_mask(noise, 0.75), block_mask(noise, 0.75, (4, 6), 1)
    assert torch.equal(plain.mask, cells.mask)
    assert torch.equal(plain.ids_keep.sort(dim=1).values, cells.ids_keep)


@pytest.mark.parametrize("grid", [(7, 8), (8, 7)])
def test_cells_cut_off_at_a_border_are_refused(grid: tuple[int, int]) -> None:
    text = rf"grid of {grid[0]}x{grid[1]} patches cannot be covered by cells of 2x2; set mask_block"
    with pytest.raises(ValueError, match=text):
        num_cells(grid, 2)
    with pytest.raises(ValueError, match=text):
        block_mask(torch.rand(1, 12), 0.5, grid, 2)


def test_noise_for_another_number_of_cells_is_refused() -> None:
    with pytest.raises(ValueError, match="noise has 64 numbers an image for 16 cells"):
        block_mask(torch.rand(4, 64), 0.65, (8, 8), 2)


def test_keeping_and_restoring_gives_the_tokens_back() -> None:
    tokens = torch.randn(3, 16, 5)
    mask = block_mask(torch.rand(3, 4), 0.5, (4, 4), 2)
    shuffled = torch.cat(
        [take_tokens(tokens, mask.ids_keep), take_tokens(tokens, mask.ids_hide)], 1
    )
    place = torch.cat([mask.ids_keep, mask.ids_hide], dim=1).argsort(dim=1)
    assert torch.equal(take_tokens(shuffled, place), tokens)


def test_take_tokens_picks_by_image() -> None:
    tokens = torch.arange(12.0).reshape(2, 3, 2)
    picked = take_tokens(tokens, torch.tensor([[2, 0], [1, 1]]))
    assert picked.tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


@pytest.mark.parametrize(
    ("size", "patch", "larger"),
    [
        ((40, 40), 8, "multiples of 16 px, such as 48x48"),
        ((36, 36), 4, "multiples of 8 px, such as 40x40"),
        ((112, 112), 16, "multiples of 32 px, such as 128x128"),
        ((48, 80), 16, "multiples of 32 px, such as 64x96"),
    ],
)
def test_grids_that_cells_do_not_cover_are_told_what_would_fit(
    size: tuple[int, int], patch: int, larger: str
) -> None:
    grid = (size[0] // patch, size[1] // patch)
    with pytest.raises(ValueError, match="cannot be covered by cells of 2x2") as caught:
        check_mask(grid, patch, 0.75, 2)
    text = str(caught.value)
    assert f"views of {size[0]}x{size[1]} px in patches of {patch} px" in text
    assert "set pretrain.method.mask_block to 1" in text
    assert larger in text
    check_mask(grid, patch, 0.75, 1)
    fits = [int(side) // patch for side in larger.split()[-1].split("x")]
    check_mask((fits[0], fits[1]), patch, 0.75, 2)


def test_a_mask_must_leave_something_and_hide_something() -> None:
    with pytest.raises(ValueError, match=r"32x32 px .*0\.75 leaves 0 of 1 cells of 2x2") as caught:
        check_mask((2, 2), 16, 0.75, 2)
    assert "set pretrain.method.mask_block to 1, another pretrain.method.mask_ratio" in str(
        caught.value
    )
    with pytest.raises(ValueError, match=r"0\.8 leaves 0 of 4 patches visible") as caught:
        check_mask((2, 2), 16, 0.8)
    assert "mask_block" not in str(caught.value)
    with pytest.raises(ValueError, match="leaves 4 of 4 patches visible"):
        check_mask((2, 2), 16, 0.1, 1, lambda count, ratio: count)
    check_mask((2, 2), 16, 0.75)


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.5, 0.65, 0.75, 0.9, 0.95])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 10, 49])
def test_what_is_refused_early_is_what_would_be_refused_later(ratio: float, length: int) -> None:
    noise = torch.rand(1, length)
    if 0 < num_visible(length, ratio) < length:
        check_mask((1, length), 8, ratio)
        assert random_mask(noise, ratio).ids_keep.shape[1] == num_visible(length, ratio)
    else:
        for refused in (
            lambda: check_mask((1, length), 8, ratio),
            lambda: random_mask(noise, ratio),
        ):
            with pytest.raises(ValueError, match="visible"):
                refused()


def test_take_positions_picks_from_one_table_for_all_images() -> None:
    table = torch.randn(1, 6, 3)
    ids = torch.tensor([[2, 0], [5, 1]])
    whole = table.expand(2, -1, -1)
    assert torch.equal(take_positions(table, ids), take_tokens(whole, ids))
