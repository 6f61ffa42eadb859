"""From packed pixels to one crop box an image, where the random crops start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contramask.boxes.box_set import BoxSet
    from contramask.boxes.generate import BoxConfig
    from contramask.data.store import Store


def make_boxes(store: Store, config: BoxConfig) -> BoxSet:
    """Find where the content of each training image lies."""
    from contramask.boxes.generate import generate_boxes

    return generate_boxes(store, config)
