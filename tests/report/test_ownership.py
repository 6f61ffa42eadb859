import numpy as np
import pandas as pd
import pytest

from contramask.report.ownership import methods_in, owner_of
from contramask.results import StageOutput


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("mae/features", "mae"),
        ("mae-10-percent/confusion", "mae"),
        ("mae-large/features", "mae-large"),
        ("mae-large-upernet-per_class", "mae-large"),
        ("mae-curve", "mae"),
        ("maestro/features", None),
        ("original", None),
    ],
)
def test_the_longest_method_owns_it(name, owner):
    assert owner_of(name, ["mae", "mae-large", "cmae"]) == owner


@pytest.mark.parametrize(
    "name",
    [
        *("dino-s/images", "dino-s-10-percent/confusion", "dino-s-compute-matched/confusion"),
        *("dino-s-near", "dino-s-linear-per_class", "dino-s-dpt-curve", "dino-s-0.5-percent-worst"),
        *("dino-s-compute-matched-curve", "dino-s-1e-05-percent-curve", "dino-s-something_new"),
    ],
)
@pytest.mark.parametrize("with_rows", [True, False])
def test_methods_are_known_from_rows_and_told_from_names_without(name, with_rows):
    rows = pd.DataFrame({"method": ["dino-s", "random_init"]})
    parts = {"arrays": {name: np.ones(1)}} if "/" in name else {"tables": {name: rows}}
    output = StageOutput(rows, **parts) if with_rows else StageOutput(**parts)
    assert methods_in(output) == ["dino-s"]


def test_a_name_that_ends_like_a_head_is_known_from_rows():
    rows = pd.DataFrame({"method": ["vit-linear"]})
    assert methods_in(StageOutput(rows, {"vit-linear-curve": rows})) == ["vit-linear"]
