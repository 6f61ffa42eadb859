"""What the numbers of a transfer task are called where runs are followed, MLflow for example."""

from collections.abc import Mapping
from typing import Any

from contramask.models.bundle import ANCHOR


def metric_prefix(manifest: Mapping[str, Any], *parts: str) -> str:
    """What the metrics of one training of an encoder begin with, such as `segmentation/upernet`.

    The encoder's method is no part of it, so the curves of two runs lie over each other; only the
    random-init anchor, which is measured in the run of another encoder, has its name at the end.
    """
    own = [part for part in parts if part]
    if manifest["method"] == ANCHOR:
        own.append(ANCHOR)
    return "/".join(own)
