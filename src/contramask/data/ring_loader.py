"""Batches by epoch whose views the user's own transforms make, in the background."""

import os

import numpy as np
import torch

from contramask.data.augment import draw_keys
from contramask.data.loader import ImageLoader, Views
from contramask.data.prefetch import Batches, staged
from contramask.data.ring import DEPTH, Recipe, make_ring
from contramask.draws import image_keys


class RingLoader(ImageLoader):
    """As `ImageLoader`; `views` is given the ring's uint8 (V, B, H, W, C) in place of the images.

    The batches are the same for every number of workers, and wherever an epoch was continued. One
    epoch is read at a time. Raises, while iterating, `TransformFailed` and `ChildProcessError`.
    """

    def __init__(
        self,
        recipe: Recipe,
        views: Views,
        seed: int,
        device: torch.device,
        workers: int,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        whole = recipe.shape[1] * share[1]  # a recipe is for one process's part
        super().__init__(recipe.images, views, whole, seed, device, share=share)
        self.ring, self.workers = make_ring(recipe, workers), workers

    tolerated_wait = 0.02  # the views are made by processes of their own
    kept = "in the store, read by what makes the views"

    @property
    def advice(self) -> str:
        """What to do when training waits for these batches."""
        return (
            f"views.transforms are run by {self.workers or 'a thread and no'} worker processes on "
            f"{os.cpu_count()} cores; raise launch.workers up to the cores that are free, or take "
            "cheaper transforms (smaller pictures first, then the costly changes)"
        )

    def _batches(self, epoch: int, start: int) -> Batches:
        parts = self.parts(epoch, start)
        self.ring.settle()  # an iterator that was left early and still lives
        for number in range(min(DEPTH, len(parts))):
            self._submit(number, parts[number], epoch)
        try:
            for number, indices in enumerate(parts):
                slot = number % DEPTH
                made = staged(self.ring.collect(slot), self.device)
                batch = self._batch(indices, made, epoch)
                if number + DEPTH < len(parts):
                    self._submit(slot, parts[number + DEPTH], epoch)
                yield batch
        finally:
            self.ring.settle()

    def _submit(self, slot: int, indices: np.ndarray, epoch: int) -> None:
        key = image_keys(self.seed, epoch, torch.from_numpy(indices))
        self.ring.submit(slot, indices, draw_keys(key))
