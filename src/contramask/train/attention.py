"""Which of torch's fused attention kernels an accelerator is asked for, in which order.

Torch asks flash first everywhere and cuDNN last. On Hopper cuDNN's kernel is the faster one, by
1.7-2.3 at long sequences (huggingface/transformers PR 48163); on Ampere and Blackwell it is not.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
from timm.layers.attention import Attention
from torch import nn
from torch.backends import cuda as switches
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)

Order = tuple[SDPBackend, ...]

_CUDNN, _FLASH = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION
_EFFICIENT, _PLAIN = SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH
_NAMES = {_CUDNN: "cuDNN", _FLASH: "flash", _EFFICIENT: "memory-efficient", _PLAIN: "plain"}
_HOPPER = 9  # the major number of its compute capability
_TOKENS = 197  # of the trial that tells which kernel runs


def attention_order(device: torch.device) -> Order:
    """The kernels to ask for, those first that are fast there; empty where torch's order stays.

    What torch's own switches (`torch.backends.cuda.enable_flash_sdp`, ...) forbid is left out.
    """
    if device.type != "cuda" or torch.version.hip:
        return ()
    hopper = torch.cuda.get_device_capability(device)[0] == _HOPPER
    first = (_CUDNN, _FLASH, _EFFICIENT) if hopper else (_FLASH, _EFFICIENT, _CUDNN)
    allowed = {
        _CUDNN: switches.cudnn_sdp_enabled(),  # type: ignore[no-untyped-call]
        _FLASH: switches.flash_sdp_enabled(),  # type: ignore[no-untyped-call]
        _EFFICIENT: switches.mem_efficient_sdp_enabled(),  # type: ignore[no-untyped-call]
    }
    return (*(kernel for kernel in first if allowed[kernel]), _PLAIN)


def asking(order: Order) -> AbstractContextManager[None]:
    """A context, for forward and backward alike, in which attention asks in this order."""
    return sdpa_kernel(list(order), set_priority=True) if order else nullcontext()


def kernel_for(heads: int, width: int, dtype: torch.dtype, device: torch.device) -> SDPBackend:
    """Which kernel trains `heads` heads of `width` numbers, without a bias, in this context."""
    trial = torch.empty(1, heads, _TOKENS, width, dtype=dtype, device=device, requires_grad=True)
    return SDPBackend(torch._fused_sdp_choice(trial, trial, trial))


def tell_kernels(module: nn.Module, dtype: torch.dtype, device: torch.device, order: Order) -> None:
    """Log the order and the kernel that each kind of a module's attention gets, once a process."""
    parts = [part for part in module.modules() if isinstance(part, Attention)]
    with asking(order):
        for heads, width in sorted({(part.num_heads, part.head_dim) for part in parts}):
            found = _NAMES.get(kernel_for(heads, width, dtype, device), "another")
            _say(f"{heads} heads of {width}: {found}", ", ".join(_NAMES[each] for each in order))


@lru_cache
def _say(found: str, order: str) -> None:
    log.info("attention of %s (asked in this order: %s)", found, order)
