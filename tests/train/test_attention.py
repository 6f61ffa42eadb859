"""The order in which fused attention is asked for, and that forward and backward are inside."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.backends import cuda as switches
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from contramask.methods.base import StepOutput
from contramask.models.encoder import EncoderConfig, VisionEncoder
from contramask.train.attention import asking, attention_order, kernel_for, tell_kernels
from contramask.train.device import Machine
from contramask.train.loop import train_step
from contramask.train.plan import measure_step

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CUDNN, FLASH = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION
EFFICIENT, PLAIN = SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((9, 0), (CUDNN, FLASH, EFFICIENT, PLAIN)),
        ((8, 0), (FLASH, EFFICIENT, CUDNN, PLAIN)),
        ((10, 0), (FLASH, EFFICIENT, CUDNN, PLAIN)),
    ],
)
def test_the_chip_decides(
    capability: tuple[int, int], expected: tuple[SDPBackend, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert attention_order(CUDA) == expected
    monkeypatch.setattr(switches, "flash_sdp_enabled", lambda: False)
    assert attention_order(CUDA) == tuple(kernel for kernel in expected if kernel != FLASH)


def test_elsewhere_nothing_changes() -> None:
    assert attention_order(CPU) == attention_order(torch.device("meta")) == ()
    with asking(()):
        assert switches.flash_sdp_enabled()


def test_only_what_is_asked_for_runs_and_all_is_put_back() -> None:
    query = torch.randn(2, 4, 17, 16, requires_grad=True)
    expected = F.scaled_dot_product_attention(query, query, query)
    usual = kernel_for(4, 16, torch.float32, CPU)
    with asking((PLAIN,)):
        assert kernel_for(4, 16, torch.float32, CPU) == PLAIN
        assert not switches.flash_sdp_enabled()
        found = F.scaled_dot_product_attention(query, query, query)
        found.sum().backward()
    assert switches.flash_sdp_enabled()
    assert kernel_for(4, 16, torch.float32, CPU) == usual
    torch.testing.assert_close(found, expected)


def test_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    sizes = EncoderConfig(patch_size=8, embed_dim=48, depth=2, num_heads=3)
    encoder = VisionEncoder((32, 32), 3, sizes)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            tell_kernels(encoder, torch.float32, CPU, (PLAIN,))
    said = "attention of 3 heads of 16: plain (asked in this order: plain)"
    assert [record.getMessage() for record in caplog.records] == [said]


@dataclass(frozen=True)
class Noting(Machine):
    """Says what happens inside its attention context."""

    said: list[str] = field(default_factory=list)

    @contextmanager
    def attention(self) -> Iterator[None]:  # type: ignore[override]
        self.said.append("in")
        yield
        self.said.append("out")


class Told(nn.Module):
    """A network that says when it is run, and when its gradient is taken."""

    def __init__(self, said: list[str]) -> None:
        super().__init__()
        self.said, self.weight = said, nn.Parameter(torch.ones(()))

    def __deepcopy__(self, memo: Any) -> "Told":
        return self

    def forward(self, batch: dict[str, Tensor]) -> StepOutput:
        self.said.append("forward")
        value = self.weight * 2
        value.register_hook(lambda grad: self.said.append("backward"))
        return StepOutput(value)


def test_forward_and_backward_are_inside() -> None:
    machine = Noting(CPU, "fp32")
    model, batch = Told(machine.said), {"key": torch.arange(4)}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_step(model, batch, optimizer, machine, 0.5, accumulate=2)
    assert machine.said == ["in", *["forward", "backward"] * 2, "out"]
    machine.said.clear()
    measure_step(model, batch, machine)
    assert machine.said == ["in", "forward", "backward", "out"] * 2  # the first one is not timed
