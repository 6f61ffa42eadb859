"""Exponential moving averages of networks, matched by name."""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(module: M) -> M:
    """A copy that no gradient reaches: the starting point of a target network."""
    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * online, for every parameter of `target`.

    Parameters are matched by name; `online` may have more (a final norm the target does without).
    Buffers are left alone: a target's batch norms keep statistics of their own.
    Raises `ValueError` if `online` lacks a parameter.
    """
    source = dict(online.named_parameters())
    names = [name for name, _ in target.named_parameters()]
    missing = [name for name in names if name not in source]
    if missing:
        raise ValueError(f"the online network has no parameters named {', '.join(missing[:5])}")
    averages = [p.data for _, p in target.named_parameters()]
    torch._foreach_lerp_(averages, [source[name].data for name in names], 1 - momentum)


def cosine_momentum(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at 1 along half a cosine; constant if they are equal."""
    half = 0.5 * (1 + math.cos(math.pi * progress))
    return end - (end - start) * half
