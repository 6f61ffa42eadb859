"""Anchors, aligned pooling and mask pasting, each against its definition."""

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from contramask.models.regions import AlignedRoIPool, StrideAnchors, paste_masks


def test_anchors_follow_the_strides_even_on_rounded_levels() -> None:
    anchors = StrideAnchors((4, 8), 8.0, (1.0,))
    images = ImageList(torch.zeros(2, 3, 20, 28), [(20, 28)] * 2)
    levels = [torch.zeros(2, 5, 5, 7), torch.zeros(2, 5, 3, 4, dtype=torch.bfloat16)]
    first, second = anchors(images, levels)
    assert torch.equal(first, second)
    assert first.dtype == torch.float32
    assert len(first) == 5 * 7 + 3 * 4
    centres = (first[:, :2] + first[:, 2:]) / 2
    assert centres[:35].max(dim=0).values.tolist() == [24, 16]  # (7 - 1) and (5 - 1) strides of 4
    assert centres[35:].max(dim=0).values.tolist() == [24, 16]  # (4 - 1) and (3 - 1) strides of 8
    sides = first[:, 2] - first[:, 0]
    assert sides[:35].unique().tolist() == [32]
    assert sides[35:].unique().tolist() == [64]
    assert anchors.num_anchors_per_location() == [1, 1]


def test_pooling_reads_values_at_cell_centres() -> None:
    # A map whose value is the x position of the cell's centre in px: pooling must return positions.
    stride, cols = 2, 16
    ramp = (torch.arange(cols) + 0.5) * stride
    features = {"x2": ramp.expand(1, 1, cols, cols).clone(), "pool": torch.zeros(1, 1, 8, 8)}
    box = torch.tensor([[4.0, 6.0, 18.0, 20.0]])  # 14 px in 7 bins: centres 5, 7, ..., 17
    pooled = AlignedRoIPool((stride,), 7)(features, [box], [(32, 32)])
    assert pooled.shape == (1, 1, 7, 7)
    assert torch.allclose(pooled[0, 0, 3], torch.arange(5.0, 19.0, 2.0), atol=1e-4)


def test_boxes_are_read_from_the_level_of_their_size() -> None:
    features = {
        "x4": torch.full((2, 1, 64, 64), 1.0),
        "x2": torch.full((2, 1, 32, 32), 2.0),
        "x1": torch.full((2, 1, 16, 16), 3.0),
        "pool": torch.full((2, 1, 8, 8), 4.0),
    }
    boxes = [
        torch.tensor([[0.0, 0, 10, 10], [0, 0, 30, 30]]),  # below 28 px: stride 1; below 56: 2
        torch.tensor([[0.0, 0, 60, 60]]),
    ]
    pooled = AlignedRoIPool((1, 2, 4), 2)(features, boxes, [(64, 64)] * 2)
    assert pooled.mean(dim=(1, 2, 3)).tolist() == [1.0, 2.0, 3.0]


def test_pooling_nothing_gives_an_empty_tensor() -> None:
    features = {"x1": torch.zeros(1, 3, 8, 8), "pool": torch.zeros(1, 3, 4, 4)}
    pooled = AlignedRoIPool((4,), 7)(features, [torch.zeros(0, 4)], [(32, 32)])
    assert pooled.shape == (0, 3, 7, 7)


def test_a_full_mask_fills_its_box_exactly() -> None:
    full = torch.ones(1, 28, 28)
    drawn = paste_masks(full, torch.tensor([[3.0, 5.0, 11.0, 9.0]]), (16, 20))
    expected = torch.zeros(16, 20, dtype=torch.bool)
    expected[5:9, 3:11] = True
    assert drawn.shape == (1, 16, 20)
    assert torch.equal(drawn[0], expected)


@pytest.mark.parametrize("half", ["left", "top"])
def test_masks_keep_their_orientation(half: str) -> None:
    mask = torch.zeros(1, 28, 28)
    if half == "left":
        mask[:, :, :14] = 1
    else:
        mask[:, :14] = 1
    drawn = paste_masks(mask, torch.tensor([[2.0, 2.0, 10.0, 10.0]]), (12, 12))[0]
    expected = torch.zeros(12, 12, dtype=torch.bool)
    if half == "left":
        expected[2:10, 2:6] = True
    else:
        expected[2:6, 2:10] = True
    assert torch.equal(drawn, expected)
