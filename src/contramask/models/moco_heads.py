"""MoCo-v3's projector and predictor: perceptrons with batch norm after every layer."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class MoCoHead(nn.Sequential):
    """`depth` linear layers without bias, each followed by batch norm, all but the last by ReLU.

    (B, in_dim) to (B, out_dim), in float32 also under autocast. As in MoCo-v3 (Chen et al.,
    2104.02057, its released code): the last batch norm has no gain and no bias; three layers make
    the projector, two the predictor. Raises `ValueError` unless depth is at least 1.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"a head has at least one layer, not {depth}")
        widths = [in_dim, *[hidden_dim] * (depth - 1), out_dim]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(depth):
            last = i == depth - 1
            layers[f"fc{i}"] = nn.Linear(widths[i], widths[i + 1], bias=False)
            layers[f"bn{i}"] = nn.BatchNorm1d(widths[i + 1], affine=not last)
            if not last:
                layers[f"act{i}"] = nn.ReLU()
        super().__init__(layers)

    def forward(self, features: Tensor) -> Tensor:
        """Project (B, in_dim) features; batch norm needs at least two in training."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())  # type: ignore[no-any-return,no-untyped-call]
