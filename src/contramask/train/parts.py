"""Cutting a batch into parts that fit: when it may be done, and into how many it must be."""

import copy

import torch
from torch import Tensor, nn

from contramask.data.loader import ImageLoader
from contramask.data.resident import ResidentImages
from contramask.failures import SMALLER
from contramask.methods.base import Batch, Method
from contramask.train.backward import backward, reads_twice
from contramask.train.device import Machine
from contramask.train.loop import BatchSource


def check_parts(method: Method, batch_size: int, processes: int, accumulate: int) -> None:
    """Raise `ValueError` if a batch cannot be cut into the parts that were asked for."""
    parts = accumulate * processes
    if batch_size % parts:
        raise ValueError(
            f"pretrain.batch_size {batch_size} cannot be cut into {parts} equal parts "
            f"({processes} processes x pretrain.accumulate {accumulate}); set it to a multiple "
            f"of {parts}"
        )
    reason = method.why_not_cut(batch_size // processes, accumulate)
    if accumulate > 1 and reason:
        raise ValueError(
            f"pretrain.accumulate {accumulate} would train something else with {method.label}: "
            f"{reason}. Set it to 1 and pretrain.batch_size to what fits, or use more devices "
            "(launch.devices), over which the loss is that of the whole batch"
        )


def pass_note(method: Method, loader: ImageLoader, accumulate: int) -> str:
    """How many images pass through the network at once, and what that costs."""
    processes = loader.share[1]
    images = loader.batch_size // (processes * accumulate)
    note = f"{images} ({processes} processes x {accumulate} parts"
    return f"{note}, each read twice)" if reads_twice(method, accumulate) else f"{note})"


def what_fits(method: Method, loader: ImageLoader, machine: Machine, accumulate: int) -> str:
    """What to change when a pass did not fit into the memory, found by trying smaller ones."""
    processes = loader.share[1]
    size = loader.batch_size // processes
    counts = finer_cuts(method, size, accumulate)
    advice = f"{size // accumulate} images a pass are too many"
    if processes > 1:  # the others will not take part in a trial
        count = counts[0] if counts else 0
    else:
        count = fitting_parts(method, next(loader.epoch(0)), machine, counts)
        advice = f"{advice}, {size // count if count else 0} fitted in a trial"
    if not count:
        return f"{advice}: choose a smaller encoder or smaller views"
    if isinstance(loader.images, ResidentImages):
        advice += f" beside {loader.images.gigabytes:.1f} GB of images (launch.resident)"
    price = "at the price of one more forward pass of the online branch, "
    smaller = size // count * accumulate * processes
    return (
        f"{advice}: set pretrain.accumulate to {count}, which gives the same training"
        f"{f' {price}' if reads_twice(method, count) else ', '}or pretrain.batch_size to {smaller}"
    )


def finer_cuts(method: Method, images: int, parts: int) -> list[int]:
    """Into how many equal parts so many images can be cut, each time at least twice as many."""
    found: list[int] = []
    for count in range(2 * parts, images + 1):
        allowed = images % count == 0 and method.why_not_cut(images, count) is None
        if allowed and count >= 2 * (found or [parts])[-1]:
            found.append(count)
    return found


def fitting_parts(model: nn.Module, batch: Batch, machine: Machine, counts: list[int]) -> int:
    """The first of some numbers of parts in which a batch gets its gradients; 0 if in none.

    On a copy of the model, which takes about the room of an optimiser.
    """
    return next((parts for parts in counts if _fits(model, batch, machine, parts)), 0)


def largest_step(model: nn.Module, source: BatchSource, machine: Machine, key: str) -> str:
    """What to change when a step of a stage did not fit into the memory: its batch size, `key`.

    For trainings whose batches hold two images at least.
    """
    images = source.batch_size
    try:
        found = fitting_batch(model, next(source.epoch(0)), machine, least=2)
    except (MemoryError, RuntimeError):  # there is not even room for a batch
        return f"{images} images a step are too many: set {key} to less"
    if not found:
        return f"{images} images a step are too many, and so are 2. {SMALLER}"
    return f"{images} images a step are too many, {found} fitted in a trial: set {key} to {found}"


def fitting_batch(model: nn.Module, batch: Batch, machine: Machine, least: int = 1) -> int:
    """The most images of a batch, of its half, quarter, ..., that pass through in one step; or 0.

    Forward and backward on a copy of the model, which takes about the room of an optimiser. Tensors
    and lists of a batch have an entry an image; what is tried are multiples of `least`.
    """
    images = max(len(value) for value in batch.values() if isinstance(value, Tensor)) // 2
    while images := images - images % least:
        part = {k: v[:images] if isinstance(v, Tensor | list) else v for k, v in batch.items()}
        if _fits(model, part, machine, 1):
            return images
        images //= 2
    return 0


def _fits(model: nn.Module, batch: Batch, machine: Machine, parts: int) -> bool:
    if machine.device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        backward(copy.deepcopy(model).train(), batch, machine, parts)
    except (MemoryError, RuntimeError):
        # Near the end of memory libraries fail in words of their own, and the network has just
        # run: whatever this is, it must not stand in for the advice.
        return False
    return True
