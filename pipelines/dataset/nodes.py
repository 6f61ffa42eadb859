"""From the user's images (or the built-in scenes) to an index, a data card and packed pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from contramask.data.config import DatasetConfig
    from contramask.data.store import Store


def build_store(
    config: DatasetConfig, work: Path
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any], Store, np.ndarray]:
    """Read every image once; return index, problems, data card, store and contact sheet."""
    from contramask.data.build import build_dataset

    built = build_dataset(config, work)
    return built.index, built.problems, built.card, built.store, built.contact_sheet
