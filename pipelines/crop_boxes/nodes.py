"""From packed pixels to one crop box an image, where the random crops start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contramask.boxes.box_set import BoxSet
    from contramask.boxes.generate import BoxConfig
    from contramask.data.store import Store
    from contramask.data.views import ViewConfig


def make_boxes(store: Store, config: BoxConfig, views: ViewConfig) -> BoxSet:
    """Find where the content of each training image lies; judged by the crops of `views`."""
    from contramask.boxes.generate import generate_boxes

    return generate_boxes(store, config.for_views(views))
