"""Names of tracked numbers: the same for every method, another for the anchor alone."""

from contramask.transfer.metric_names import metric_prefix


def test_methods_share_their_names_and_the_anchor_has_its_own() -> None:
    for method in ("mae", "cmae"):
        assert (
            metric_prefix({"method": method}, "segmentation", "upernet") == "segmentation/upernet"
        )
    anchor = {"method": "random_init"}
    assert metric_prefix(anchor, "segmentation", "upernet") == "segmentation/upernet/random_init"
    assert metric_prefix(anchor, "finetune", "") == "finetune/random_init"
