"""bfloat16 is chosen by what the processor says of itself."""

from typing import Any

import pytest
import torch

from contramask.models.precision import has_fast_bf16


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True}, False),
        ({}, False),
    ],
)
def test_processors(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], fast: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_fast_bf16(torch.device("cpu")) is fast


@pytest.mark.parametrize(("generation", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_accelerators(
    monkeypatch: pytest.MonkeyPatch, generation: tuple[int, int], fast: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    assert has_fast_bf16(torch.device("cuda")) is fast
    assert not has_fast_bf16(torch.device("meta"))
