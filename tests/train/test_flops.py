"""FLOPs are those of the products, not of the kernel that happens to compute them."""

import pytest
import torch
from timm.layers.attention import Attention
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from contramask.train.flops import count_flops

TOKENS, WIDTH = 20, 16


def attend(fused: bool) -> None:
    attention = Attention(WIDTH, num_heads=2)
    attention.fused_attn = fused  # type: ignore[misc]
    attention(torch.randn(3, TOKENS, WIDTH, requires_grad=True)).sum().backward()


def test_products_are_counted_by_hand() -> None:
    weights = torch.randn(6, 10, requires_grad=True)
    assert count_flops(lambda: torch.randn(8, 6) @ weights) == 2 * 8 * 6 * 10
    layer = nn.Conv2d(3, 4, kernel_size=2, stride=2)
    assert count_flops(lambda: layer(torch.randn(1, 3, 8, 8))) == 2 * 16 * 12 * 4


def test_fused_attention_counts_as_explicit_attention() -> None:
    linear = 3 * 2 * TOKENS * WIDTH * 4 * WIDTH * 3  # query, key, value and output; three passes
    products = 3 * 2 * 2 * TOKENS * TOKENS * WIDTH * 3
    assert count_flops(lambda: attend(fused=False)) == linear + products
    assert count_flops(lambda: attend(fused=True)) == linear + products
    with FlopCounterMode(display=False) as naive:  # the reason for a count of our own
        attend(fused=True)
    assert naive.get_total_flops() == linear + products * 7 / 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_so_it_does_on_an_accelerator(dtype: torch.dtype) -> None:
    shape = (2, 2, 32, 16)
    query, key, value = (
        torch.randn(shape, dtype=dtype, device="cuda", requires_grad=True) for _ in range(3)
    )
    found = count_flops(lambda: F.scaled_dot_product_attention(query, key, value).sum().backward())
    assert found == 3 * 2 * (2 * 2 * 2 * 32 * 32 * 16)
