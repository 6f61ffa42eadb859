"""Counter-based random numbers: a pure function of (seed, epoch, image, purpose).

Crops, colours and masks drawn this way are the same whatever the number of loader workers, the
world size or the step at which a run was continued, so nothing about randomness has to be saved.
"""

import torch
from torch import Tensor

# The three odd constants of the splitmix64 generator (Steele et al., 2014), as signed 64-bit.
_GAMMA = -7046029254386353131
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch's is arithmetic on signed integers)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """Wrap a Python integer into the range of int64."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def image_keys(seed: int, epoch: int, index: Tensor) -> Tensor:
    """One key per image, (B,) int64, fixed by the seed, the epoch and the image's row number."""
    # On the processor wherever the index is: single numbers go to a device with what uses them,
    # without a copy that the step would wait for.
    start = torch.tensor([seed, epoch], dtype=torch.int64)
    base = _mix(_mix(start[0] * _GAMMA + _GAMMA) ^ (start[1] * _MIX_2 + _MIX_1))
    return _mix(base ^ _mix(index.to(torch.int64) * _GAMMA + _MIX_2))


def subkeys(key: Tensor, stream: int) -> Tensor:
    """A key for one purpose from the images' keys (B,) int64; other purposes' keys tell nothing."""
    return _mix(key ^ _signed((stream + 1) * 0x5851F42D4C957F2D))


def uniform(key: Tensor, stream: int, count: int) -> Tensor:
    """Uniform numbers in [0, 1), (B, count) float32, independent between streams.

    `key` is (B,) int64 from `image_keys`; `stream` numbers the purpose (mask, crop, colour of the
    second view, ...), so that adding one purpose never shifts the numbers of another.
    """
    offsets = torch.arange(count, dtype=torch.int64, device=key.device)
    bits = _mix(subkeys(key, stream)[:, None] + (offsets + 1) * _GAMMA)
    return _shift_right(bits, 40).to(torch.float32) / float(1 << 24)  # 24 bits: all float32 holds
