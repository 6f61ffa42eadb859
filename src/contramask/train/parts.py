"""Cutting a batch into parts that fit: when it may be done, and into how many it must be."""

import copy

import torch
from torch import Tensor, nn

from contramask.data.loader import ImageLoader
from contramask.data.resident import ResidentImages
from contramask.failures import SMALLER
from contramask.methods.base import Batch, Method
from contramask.train.device import Machine
from contramask.train.loop import BatchSource, part_of
from contramask.train.plan import one_pass


def check_parts(method: Method, loader: ImageLoader, accumulate: int) -> None:
    """Raise `ValueError` if a batch cannot be cut into the parts that were asked for."""
    processes = loader.share[1]
    parts = accumulate * processes
    if loader.batch_size % parts:
        raise ValueError(
            f"pretrain.batch_size {loader.batch_size} cannot be cut into {parts} equal parts "
            f"({processes} processes x pretrain.accumulate {accumulate}); set it to a multiple "
            f"of {parts}"
        )
    reason = method.coupling(loader.images.labels)
    if accumulate > 1 and reason:
        raise ValueError(
            f"pretrain.accumulate {accumulate} would train something else with {method.label}: "
            f"{reason}. Set it to 1 and pretrain.batch_size to what fits, or use more devices "
            "(launch.devices), over which the loss is that of the whole batch"
        )


def what_fits(method: Method, loader: ImageLoader, machine: Machine, accumulate: int) -> str:
    """What to change when a pass did not fit into the memory, found by trying smaller ones."""
    parts = accumulate * loader.share[1]
    images = loader.batch_size // parts
    if loader.share[1] > 1:  # the other processes will not take part in a trial
        found, advice = max(images // 2, 1), f"{images} images a pass are too many"
    else:
        batch = part_of(next(loader.epoch(0)), 0, accumulate)
        found = fitting_batch(method, batch, machine)
        advice = f"{images} images a pass are too many, {found} fitted in a trial"
    if not found:
        return f"{advice}: choose a smaller encoder or smaller views"
    if isinstance(loader.images, ResidentImages):
        advice += f" beside {loader.images.gigabytes:.1f} GB of images (launch.resident)"
    if method.coupling(loader.images.labels) is None:
        count = accumulate * -(-images // found)
        return (
            f"{advice}: set pretrain.accumulate to {count}, which gives the same training, or "
            f"pretrain.batch_size to {found * parts}"
        )
    return f"{advice}: set pretrain.batch_size to {found * parts}, or use more devices"


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
        if machine.device.type == "cuda":
            torch.cuda.empty_cache()
        part = {k: v[:images] if isinstance(v, Tensor | list) else v for k, v in batch.items()}
        try:
            one_pass(copy.deepcopy(model).train(), part, machine)
            return images
        except (MemoryError, RuntimeError):
            # Near the end of memory libraries fail in words of their own, and the network has
            # just run: whatever this is, it must not stand in for the advice.
            pass
        images //= 2
    return 0
