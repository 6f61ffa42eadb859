"""What a computation costs: FLOPs of its matrix products, whichever kernels run them."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *others: Any, **outputs: Any
) -> int:
    """Four products of the size of the forward pass's two, from the shapes of the tensors."""
    return 2 * int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


_ATEN = torch.ops.aten
#: Fused kernels compute the scores once more in their backward pass, which torch counts: a sixth
#: more than explicit attention takes, for the same gradients.
_AS_EXPLICIT = dict.fromkeys(
    [
        _ATEN._scaled_dot_product_efficient_attention_backward,
        _ATEN._scaled_dot_product_flash_attention_backward,
        _ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
        _ATEN._scaled_dot_product_cudnn_attention_backward,
    ],
    _attention_backward,
)


def count_flops(run: Callable[[], object]) -> float:
    """FLOPs of the matrix products and convolutions while `run` runs, two a multiply-add.

    Attention counts as explicit attention does, so numbers from any device, precision and kernel
    may be compared.
    """
    with FlopCounterMode(display=False, custom_mapping=_AS_EXPLICIT) as counter:
        run()
    return float(counter.get_total_flops())
