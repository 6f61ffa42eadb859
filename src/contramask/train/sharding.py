"""Training with weights, gradients and optimiser state shared out over all processes (FSDP2).

Each process keeps a part of every tensor and has a block whole only while it computes with it.
Target networks are shared out alike, so their averages need no communication. What is written is
always whole: a run may be continued with another number of processes, or without sharding.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from contramask.methods.base import Method
from contramask.train.backward import reads_twice
from contramask.train.world import World


def check_sharding(method: Method, accumulate: int, refreshes_boxes: bool) -> None:
    """Raise `ValueError` for what reads the network outside its forward pass."""
    if reads_twice(method, accumulate):
        raise ValueError(
            f"pretrain.accumulate {accumulate} reads every part of a {method.label} batch twice, "
            "which is not done with launch.sharding fsdp2; set pretrain.accumulate to 1 or "
            "launch.sharding to ddp"
        )
    if refreshes_boxes:
        raise ValueError(
            "pretrain.box_refresh reads the encoder while it trains, which is not done with "
            "launch.sharding fsdp2; leave box_refresh out or set launch.sharding to ddp"
        )


def sharded(method: Method, world: World, device: torch.device) -> Method:
    """A copy of a method, every transformer block and the rest in shards over all processes.

    The method itself leaves the device.
    """
    made = copy.deepcopy(method)
    method.cpu()
    for value in made.state_dict().values():
        dist.broadcast(value, 0)
    mesh = init_device_mesh(device.type, (world.size,))
    for module in list(made.modules()):
        blocks = getattr(module, "blocks", None)
        if isinstance(blocks, nn.Sequential | nn.ModuleList):
            for block in blocks:
                fully_shard(block, mesh=mesh, reshard_after_forward=True)
    # By default the root stays whole after a forward pass, and a target's average would mix both.
    fully_shard(made, mesh=mesh, reshard_after_forward=True)
    return made


def is_sharded(model: nn.Module) -> bool:
    """Whether `sharded` made a model."""
    return isinstance(model, FSDPModule)


def can_be_gauged(model: nn.Module) -> bool:
    """Whether `gauges` may be asked for: they cannot read weights that are in shards."""
    return not (is_sharded(model) and getattr(model, "gauges_read_weights", False))


def in_full(value: Tensor) -> Tensor:
    """A tensor put together from all processes' shards, if it is shared; all must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole(value: Any) -> Any:
    """A state with every shared tensor in full, in ordinary memory; all processes must ask."""
    if isinstance(value, DTensor):
        return value.full_tensor().cpu()
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return value


def restore(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the whole `model` and `optimizer` states of a checkpoint, in shards where they are."""
    own = model.state_dict()
    model.load_state_dict({k: _shared(v, own.get(k)) for k, v in state["model"].items()})
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = state["optimizer"]
    shared = {
        number: {name: _shared(value, parameters[number]) for name, value in values.items()}
        for number, values in kept["state"].items()
    }
    optimizer.load_state_dict({**kept, "state": shared})


def _shared(value: Any, like: Tensor | None) -> Any:
    """A whole tensor shared out as its parameter is; every process has read the same one."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    place = value.to(like.device)
    return distribute_tensor(place, like.device_mesh, like.placements, src_data_rank=None)
