"""The projector that ConMIM puts behind every token."""

from collections import OrderedDict

from torch import Tensor, nn

from contramask.models.beit import beit_init


class TokenProjector(nn.Sequential):
    """Three linear layers without bias, batch norm behind each, ReLU behind the first two.

    The last batch norm has no gain and no offset (2205.09616's code, after SimCLR's). Statistics
    are over all tokens of all images, hidden ones and class tokens included.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__(
            OrderedDict(
                fc0=nn.Linear(in_dim, hidden_dim, bias=False),
                bn0=nn.BatchNorm1d(hidden_dim),
                act0=nn.ReLU(),
                fc1=nn.Linear(hidden_dim, hidden_dim, bias=False),
                bn1=nn.BatchNorm1d(hidden_dim),
                act1=nn.ReLU(),
                fc2=nn.Linear(hidden_dim, out_dim, bias=False),
                bn2=nn.BatchNorm1d(out_dim, affine=False),
            )
        )
        beit_init(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Project tokens (B, N, in_dim): (B, N, out_dim)."""
        rows: Tensor = super().forward(tokens.flatten(0, 1))  # type: ignore[no-untyped-call]
        return rows.reshape(*tokens.shape[:2], -1)
