import numpy as np

from contramask.data.objects import DTYPES, instance_mask, instance_row, instance_table
from contramask.data.record import Instance


def test_mask_survives_the_table() -> None:
    mask = np.random.default_rng(0).random((20, 30)) > 0.6
    table = instance_table([instance_row(4, Instance(2, (0, 0, 30, 20), mask, iscrowd=True))])
    row = next(table.itertuples())
    np.testing.assert_array_equal(instance_mask(row, 20, 30), mask)
    assert (row.image, row.category, row.iscrowd, row.area) == (4, 2, True, mask.sum())


def test_box_alone_gives_a_filled_box() -> None:
    table = instance_table([instance_row(0, Instance(1, (2.0, 3.0, 6.0, 5.0)))])
    row = next(table.itertuples())
    mask = instance_mask(row, 10, 10)
    assert row.rle == ""
    assert row.area == mask.sum() == 8
    assert mask[3:5, 2:6].all()


def test_empty_table_has_its_columns() -> None:
    assert list(instance_table([]).columns) == list(DTYPES)
