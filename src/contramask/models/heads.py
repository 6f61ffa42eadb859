"""Small multilayer perceptrons behind features: projectors and predictors."""

from collections import OrderedDict

import torch
from torch import Tensor, nn


class MLPHead(nn.Sequential):
    """Linear - batch norm - ReLU - linear without bias: CMAE's projector and predictor.

    (B, in_dim) to (B, out_dim), in float32 also under autocast. As in the released code: batch
    norm eps 1e-6, no norm at the end, PyTorch's own initialisation of the linear layers. Of several
    processes the norms are synchronised, as in the released code (`models.synced_norm`).
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, norm_eps: float = 1e-6) -> None:
        super().__init__(
            OrderedDict(
                fc0=nn.Linear(in_dim, hidden_dim),
                bn0=nn.BatchNorm1d(hidden_dim, eps=norm_eps),
                act=nn.ReLU(),
                fc1=nn.Linear(hidden_dim, out_dim, bias=False),
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Project (B, in_dim) features: means of many tokens that must stay apart by little."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())  # type: ignore[no-any-return,no-untyped-call]
