import numpy as np
import pytest

from contramask.data.sheet import contact_sheet


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [(100, 32, (804, 804)), (3, 32, (204, 204)), (1, 224, (136, 136)), (5, 100, (212, 316))],
)
def test_grid_has_room_for_every_cell(count: int, size: int, expected: tuple[int, int]) -> None:
    sheet = contact_sheet(np.zeros((count, size, size, 3), np.uint8), seed=0)
    assert sheet.shape == (*expected, 3)
    assert sheet.dtype == np.uint8
    assert (sheet[0] == 255).all()
    assert (sheet == 0).any()


def test_classes_that_take_turns_are_mixed() -> None:
    images = np.repeat(np.arange(640, dtype=np.uint8) % 10, 32 * 32 * 3).reshape(640, 32, 32, 3)
    sheet = contact_sheet(images, seed=0)
    assert set(range(10)) <= set(np.unique(sheet))
