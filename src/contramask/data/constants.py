"""Numbers that a step needs on its device: sent there once, because every sending waits for it."""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The numbers as float32 (n,) on a device; shared by all callers, who must not write to it."""
    with torch.inference_mode(False):  # else it could serve no gradient later
        return torch.tensor(values, dtype=torch.float32, device=device)
