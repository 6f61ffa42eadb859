"""Which of several processes this one is, and the few words that they exchange."""

import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from contramask.methods.base import Method
from contramask.models.synced_norm import sync_norms

_ENDED = "contramask/main-process-ended"
_BUCKET = 8 * 2**20  # values sent at once: 32 MB, as DistributedDataParallel's own


@dataclass(frozen=True)
class World:
    """This process's number among `size`; the main one, number 0, logs and writes files."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes what the run leaves behind."""
        return self.rank == 0

    @torch.no_grad()
    def gather(self, values: Tensor) -> Tensor:
        """The values (B, ...) of all processes in order, (B * size, ...), without gradient."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @torch.no_grad()
    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes; every process gets the same."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total

    def announce_end(self) -> None:
        """Tell processes that wait for the main one that it is done with its training."""
        if self.size > 1 and self.is_main:
            dist.distributed_c10d._get_default_store().set(_ENDED, "yes")

    def leave_after_main(self) -> None:
        """End this process once the main one has ended its training, or cannot be asked any more.

        For a process that was told to stop: the main one still needs it for its current step.
        """
        threading.Thread(target=_leave, name="leave-after-main", daemon=True).start()


def current_world() -> World:
    """The world this process was started into: alone, or one of those `joined` connected."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World()


def is_worker() -> bool:
    """Whether torchrun or this package's launcher started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "WORLD_SIZE" in os.environ


def started_as_main() -> bool:
    """Whether this process is, or is going to be, number 0."""
    return os.environ.get("RANK", "0") == "0"


def restart_count() -> int:
    """How often the launcher has started its processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def joined(device_type: str) -> Iterator[World]:
    """Connect the processes that torchrun (or `contramask pretrain`) started, for as long as held.

    A process that nobody started this way is a world of its own. device_type: cuda or cpu.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield World()
        return
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    elif "OMP_NUM_THREADS" not in os.environ:
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max((os.cpu_count() or 1) // beside, 1))
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield current_world()
    finally:
        dist.destroy_process_group()


def connect(method: Method, world: World) -> None:
    """Make a method's loss that of the whole batch: keys and batch norms go over all processes."""
    if world.size > 1:
        method.gather, method.rank = world.gather, world.rank
        sync_norms(method)


def parallel(model: nn.Module, world: World) -> nn.Module:
    """The model with its gradients averaged over all processes; one of shards does that itself.

    All start from the main process's weights. Target networks follow the same weights by the same
    rule everywhere and are never sent.
    """
    if world.size == 1 or isinstance(model, FSDPModule):
        return model
    with warnings.catch_warnings():  # torch 2.15's new name is unknown to 2.11
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def bare(model: nn.Module) -> nn.Module:
    """The model inside what `parallel` made of it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def unsynced(model: nn.Module) -> AbstractContextManager[None]:
    """A context in which gradients are added up locally, to be averaged by a later pass."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return _unshared(model) if isinstance(model, FSDPModule) else nullcontext()


@contextmanager
def _unshared(model: FSDPModule) -> Iterator[None]:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def average_gradients(model: nn.Module) -> None:
    """Average the gradients over all processes after passes of which `parallel` knew nothing."""
    if not isinstance(model, DistributedDataParallel):
        return
    found = [p.grad for p in model.parameters() if p.grad is not None]
    while found:
        some = [found.pop()]  # as many as fill a bucket
        while found and sum(each.numel() for each in some) < _BUCKET:
            some.append(found.pop())
        total = torch.cat([each.flatten() for each in some])
        dist.all_reduce(total)
        total /= dist.get_world_size()
        parts = torch.split(total, [each.numel() for each in some])
        torch._foreach_copy_(some, [p.view_as(each) for p, each in zip(parts, some, strict=True)])


def _leave() -> None:
    store = dist.distributed_c10d._get_default_store()
    try:
        while not store.check([_ENDED]):
            time.sleep(0.1)
    finally:  # also when the store is gone
        os._exit(143)
