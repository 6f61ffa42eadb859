"""Batch norms whose statistics are those of all processes' images."""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


class SyncedBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the joined batch of all processes, which must be equally large.

    On every device (torch's own refuses processors); in float32 inside. Inputs are (N, width).
    """

    def forward(self, values: Tensor) -> Tensor:
        """Normalise by the joined batch in training, by the running averages else."""
        if not self.training:
            return super().forward(values)
        rows = values.float()
        mean: Tensor = _MeanOfAll.apply(rows.mean(dim=0))
        centred = rows - mean
        variance: Tensor = _MeanOfAll.apply(centred.square().mean(dim=0))
        self._follow(mean.detach(), variance.detach(), len(rows) * dist.get_world_size())
        normed = centred * (variance + self.eps).rsqrt()
        if self.affine:
            normed = normed * self.weight + self.bias
        return normed.to(values.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def sync_norms(module: nn.Module) -> None:
    """Replace every one-dimensional batch norm inside; parameters and names stay the same."""
    for name, child in list(module.named_children()):
        if type(child) is nn.BatchNorm1d:
            setattr(module, name, _synced(child))
        else:
            sync_norms(child)


def _synced(norm: nn.BatchNorm1d) -> SyncedBatchNorm1d:
    made = SyncedBatchNorm1d(norm.num_features, norm.eps, norm.momentum, norm.affine)
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    return made.train(norm.training)


class _MeanOfAll(torch.autograd.Function):
    """The mean of a tensor over all processes; so is its gradient's."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _mean(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _mean(grads[0])


def _mean(values: Tensor) -> Tensor:
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
