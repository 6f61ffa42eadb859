"""Batches on their way to an accelerator while it works on the one before.

On CUDA a batch is copied from page-locked memory and its views are made on a side stream, one batch
ahead of the training, which waits for it on the device and never on the host. Everywhere else
batches pass through: a processor that trains makes the views itself, and nothing would be gained.
"""

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Any]
Batches = Generator[Batch, None, None]


class Side(Protocol):
    """Where batches are made beside the training."""

    def working(self) -> AbstractContextManager[Any]:
        """While held, what is asked of the device is done beside the training."""

    def hand_over(self, batch: Batch) -> None:
        """Let the training use a batch once it is made; asked before the next is begun."""

    def settle(self) -> None:
        """Let the training go on only after all that was asked for."""


class CudaSide:
    """A stream beside the current one, which is the training's."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, _side_stream(device)
        # Images and boxes that lie on the device were put there by the training's stream.
        self.stream.wait_stream(self._training())

    def working(self) -> AbstractContextManager[Any]:
        """See `Side`."""
        return torch.cuda.stream(self.stream)

    def hand_over(self, batch: Batch) -> None:
        """See `Side`."""
        self.settle()
        for value in batch.values():
            if isinstance(value, Tensor):
                # Its memory is the side stream's: not to be used again before the training is done.
                value.record_stream(self._training())

    def settle(self) -> None:
        """See `Side`."""
        self._training().wait_stream(self.stream)

    def _training(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self.device)


@lru_cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    # One for all epochs: memory that was given to one stream serves no other.
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def side_for(device: torch.device) -> Side | None:
    """Where batches for a device are made; None: nowhere else than the training."""
    return CudaSide(device) if device.type == "cuda" else None


def prefetched(batches: Batches, device: torch.device) -> Iterator[Batch]:
    """The same batches, on CUDA each made while the one before is used."""
    side = side_for(device)
    return batches if side is None else one_ahead(batches, side)


def one_ahead(batches: Batches, side: Side) -> Batches:
    """The same batches, each made on `side` before the one before it is handed out."""
    try:
        with side.working():
            ready = next(batches, None)
        while ready is not None:
            current = ready
            side.hand_over(current)
            with side.working():
                ready = next(batches, None)
            yield current
    finally:
        batches.close()
        side.settle()


def staged(values: np.ndarray, device: torch.device) -> Tensor:
    """Values in memory that a device can copy from without the host: page-locked for CUDA."""
    host = torch.from_numpy(values)
    return host.pin_memory() if device.type == "cuda" else host


def sent(host: Tensor, device: torch.device) -> Tensor:
    """`staged` values on the device; on CUDA the host does not wait for them."""
    return host.to(device, non_blocking=device.type == "cuda")
