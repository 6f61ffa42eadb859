"""Which patches an encoder sees: random masks made from noise that the caller supplies."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Size = tuple[int, int]


@dataclass(frozen=True)
class PatchMask:
    """A mask over the L patches of each image; equally many are hidden in all.

    ids_keep (B, V) and ids_hide (B, L-V) number the visible and the hidden patches; mask (B, L)
    bool is True where hidden.
    """

    ids_keep: Tensor
    ids_hide: Tensor
    mask: Tensor


def num_visible(count: int, mask_ratio: float) -> int:
    """How many of `count` patches or cells stay visible: rounded down, as MAE's released code."""
    return int(count * (1 - mask_ratio))


def random_mask(noise: Tensor, mask_ratio: float) -> PatchMask:
    """Hide the patches with the largest noise (B, L): MAE's masking, 2111.06377 section 3.

    `int(L * (1 - mask_ratio))` patches stay visible, rounded down as the released code does.
    """
    length = noise.shape[1]
    num_keep = num_visible(length, mask_ratio)
    if not 0 < num_keep < length:
        raise ValueError(
            f"a mask ratio of {mask_ratio} leaves {num_keep} of {length} patches visible; "
            "at least one must stay visible and one be hidden"
        )
    order = noise.argsort(dim=1, stable=True)  # equal values: the same choice on every device
    mask = torch.ones(noise.shape, dtype=torch.bool, device=noise.device)
    mask.scatter_(1, order[:, :num_keep], False)
    return PatchMask(order[:, :num_keep], order[:, num_keep:], mask)


def block_mask(noise: Tensor, mask_ratio: float, grid_size: Size, mask_block: int) -> PatchMask:
    """Hide whole cells of `mask_block` x `mask_block` patches, those with the largest noise.

    noise is (B, U), one number a cell, cells row by row; `int(U * (1 - mask_ratio))` cells stay
    (CMAE's released code: 2x2 cells; ConMIM: cells of 32 px). Raises `ValueError` where
    `num_cells` does, or if there is not one number a cell.
    """
    count = num_cells(grid_size, mask_block)
    if noise.shape[1] != count:
        raise ValueError(f"noise has {noise.shape[1]} numbers an image for {count} cells")
    cells = random_mask(noise, mask_ratio)
    rows, cols = grid_size
    hidden = cells.mask.reshape(-1, rows // mask_block, 1, cols // mask_block, 1)
    hidden = hidden.expand(-1, -1, mask_block, -1, mask_block).reshape(-1, rows * cols)
    num_keep = cells.ids_keep.shape[1] * mask_block**2
    # A stable sort of False before True lists visible patches, then hidden ones, in reading order.
    order = hidden.to(torch.uint8).argsort(dim=1, stable=True)
    return PatchMask(order[:, :num_keep], order[:, num_keep:], hidden)


def num_cells(grid_size: Size, mask_block: int) -> int:
    """How many noise values `block_mask` needs for one image.

    Raises `ValueError` if cells would be cut off at the border: images would then differ in how
    many patches stay visible.
    """
    rows, cols = grid_size
    if rows % mask_block or cols % mask_block:
        raise ValueError(
            f"a grid of {rows}x{cols} patches cannot be covered by cells of {mask_block}x"
            f"{mask_block}; set mask_block to a common divisor (1 hides single patches)"
        )
    return (rows // mask_block) * (cols // mask_block)


def check_mask(
    grid_size: Size,
    patch_size: int,
    mask_ratio: float,
    mask_block: int = 1,
    visible_of: Callable[[int, float], int] = num_visible,
) -> None:
    """Raise `ValueError` if no mask of this kind fits the grid, with the sizes that do.

    A method asks when it is built, long before it draws a mask. `visible_of` gives the number of
    visible cells where it is not `num_visible`.
    """
    rows, cols = grid_size
    given = f"views of {rows * patch_size}x{cols * patch_size} px in patches of {patch_size} px"
    if rows % mask_block or cols % mask_block:
        step = mask_block * patch_size
        larger = "x".join(str(-(-side // mask_block) * step) for side in grid_size)
        raise ValueError(
            f"{given}: a grid of {rows}x{cols} patches cannot be covered by cells of {mask_block}x"
            f"{mask_block}; set pretrain.method.mask_block to 1, or make the views' sides "
            f"multiples of {step} px, such as {larger} (pretrain.image_size)"
        )
    cells = (rows // mask_block) * (cols // mask_block)
    visible = visible_of(cells, mask_ratio)
    if not 0 < visible < cells:
        what, single = f"{cells} patches", ""
        if mask_block > 1:
            what = f"{cells} cells of {mask_block}x{mask_block} patches"
            single = "pretrain.method.mask_block to 1, "
        raise ValueError(
            f"{given}: a mask ratio of {mask_ratio} leaves {visible} of {what} visible; at "
            f"least one must stay visible and one be hidden; set {single}another "
            "pretrain.method.mask_ratio, larger views (pretrain.image_size) or smaller patches "
            "(pretrain.encoder.patch_size)"
        )


def take_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens (B, L, D) by their numbers (B, V): (B, V, D).

    Rows of the flattened batch are copied whole, ten times as fast as `gather` on a processor.
    """
    count, length, width = tokens.shape
    rows = ids + torch.arange(count, device=ids.device)[:, None] * length
    picked = tokens.reshape(count * length, width).index_select(0, rows.flatten())
    return picked.view(*ids.shape, width)


def take_positions(table: Tensor, ids: Tensor) -> Tensor:
    """Pick from one table for all images (1, L, D) by numbers (B, V): (B, V, D)."""
    return table[0].index_select(0, ids.flatten()).view(*ids.shape, table.shape[2])
