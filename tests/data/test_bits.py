import numpy as np

from contramask.data.bits import to_eight_bits


def test_range_is_stretched_and_named() -> None:
    found, note = to_eight_bits(np.array([[100, 200, 300]], np.uint16), "16-bit grey")
    assert found.tolist() == [[0, 128, 255]]
    assert "16-bit grey" in note
    assert "100 to 300" in note


def test_single_value_stays_flat() -> None:
    found, note = to_eight_bits(np.full((2, 2), 7, np.uint16), "16-bit grey")
    assert (found == 7).all()
    assert "one value" in note
