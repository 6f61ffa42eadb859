"""COCO's numbers of a store's objects: what no object can tell is left out."""

import numpy as np

from contramask.data.store import Store
from contramask.transfer.coco_results import score

KINDS = ("box", "mask")


def test_a_class_without_objects_has_no_number(tiny_store: Store) -> None:
    split, rows = tiny_store["val"], np.arange(8)
    table = split.instances
    assert table is not None
    shown = table[table["image"].isin(rows)]
    scored = score(split, rows, [*map(str, range(10)), "unicorn"], [], with_masks=True)
    assert scored.by_class["objects"].sum() == len(shown)
    missing = scored.by_class["objects"] == 0
    assert missing.iloc[-1]
    assert (scored.by_class["box_ap"].isna() == missing).all()
    assert {name.partition("_")[0] for name in scored.scores} == set(KINDS)
    assert set(scored.scores.values()) == {0.0}
    assert list(scored.main) == [f"{k}_{n}" for k in KINDS for n in ("ap", "ap50", "ap75")]
