"""Sliding windows cover every pixel and change nothing where one window is enough."""

import pytest
import torch

from contramask.transfer.windows import slide, window_starts


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(100, 32, 21), (33, 32, 32), (64, 32, 32)]
)
def test_windows_cover_a_side_and_end_at_its_border(length: int, window: int, stride: int) -> None:
    starts = window_starts(length, window, stride)
    covered = {pixel for start in starts for pixel in range(start, start + window)}
    assert covered == set(range(length))
    assert len(starts) == len(set(starts))


def test_one_window_where_it_fits() -> None:
    assert window_starts(20, 32, 8) == [0]
    assert window_starts(32, 32, 8) == [0]
    with pytest.raises(ValueError, match="stride 33 must be from 1 to the window's 32 px"):
        window_starts(100, 32, 33)


def pixelwise(images: torch.Tensor) -> torch.Tensor:
    """A classifier that looks at single pixels, so that windows cannot matter."""
    return torch.cat([images[:, :1] * 2, images[:, 1:] - 1], dim=1)


@pytest.mark.parametrize("size", [(16, 16), (10, 16), (40, 29), (16, 33)])
def test_a_pixelwise_classifier_scores_as_on_the_whole(size: tuple[int, int]) -> None:
    images = torch.randn(2, 2, *size)
    scores = slide(pixelwise, images, (16, 16), (11, 11))
    torch.testing.assert_close(scores, pixelwise(images))


def test_overlapping_windows_are_averaged_by_count() -> None:
    numbers = iter(range(1, 10))

    def predict(piece: torch.Tensor) -> torch.Tensor:
        return torch.full_like(piece, next(numbers))

    scores = slide(predict, torch.zeros(1, 1, 4, 6), (4, 4), (4, 2))[0, 0]
    assert scores[0].tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_coarse_scores_are_enlarged_to_the_window() -> None:
    def predict(piece: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(piece, 4)

    assert slide(predict, torch.ones(1, 3, 20, 12), (8, 8), (8, 8)).shape == (1, 3, 20, 12)
