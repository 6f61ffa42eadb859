"""Choice of device and precision, and attention in the form that is fast there."""

import pytest
import torch
from timm.layers.attention import Attention

from contramask.models.encoder import EncoderConfig, VisionEncoder
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine, prepare
from contramask.typed import ConfigError, parse

CPU = torch.device("cpu")


@pytest.fixture
def no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    config = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
    return VisionEncoder((32, 32), 3, config)


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("wanted", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_refused(wanted: str) -> None:
    with pytest.raises(ValueError, match=f"launch.device is {wanted}.* it has: cpu"):
        pick_machine(LaunchConfig(device=wanted))


@pytest.mark.usefixtures("no_accelerator")
def test_auto_falls_to_the_processor() -> None:
    assert pick_machine(LaunchConfig()).device == CPU


def test_auto_prefers_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    machine = pick_machine(LaunchConfig())
    assert machine.device.type == "cuda"
    assert machine.precision == "fp32"  # before Ampere
    assert pick_machine(LaunchConfig(device="cpu")).device == CPU


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "avx2": True}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_bf16_only_where_the_processor_computes_it(
    flags: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert pick_machine(LaunchConfig(device="cpu")).precision == expected


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_precision_asked_for_is_taken(precision: str) -> None:
    machine = pick_machine(LaunchConfig(device="cpu", precision=precision))
    assert machine == Machine(CPU, precision)
    with machine.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]


@pytest.mark.parametrize(("given", "kept"), [("auto", "auto"), ("yes", True), (False, False)])
@pytest.mark.parametrize("name", ["resident", "compile"])
def test_choices_left_to_the_machine(name: str, given: object, kept: object) -> None:
    config = parse(LaunchConfig, {"device": "cpu", name: given}, "launch")
    assert getattr(pick_machine(config), name) == kept
    with pytest.raises(ConfigError, match=rf"launch\.{name}"):
        parse(LaunchConfig, {name: "perhaps"}, "launch")


def test_an_unknown_device_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"launch\.device"):
        parse(LaunchConfig, {"device": "gpu"}, "launch")


@pytest.mark.parametrize(
    ("machine", "fused"),
    [
        (Machine(CPU, "bf16"), False),
        (Machine(CPU, "fp32"), True),
        (Machine(torch.device("meta"), "bf16"), True),
    ],
)
def test_attention_is_explicit_on_processors_with_bf16_only(machine: Machine, fused: bool) -> None:
    prepared = prepare(encoder(), machine)
    parts = [part for part in prepared.modules() if isinstance(part, Attention)]
    assert len(parts) == 2
    assert all(part.fused_attn is fused for part in parts)
    assert {p.device.type for p in prepared.parameters()} == {machine.device.type}
    back = prepare(encoder(), Machine(CPU, "fp32"))
    assert all(part.fused_attn for part in back.modules() if isinstance(part, Attention))


def test_both_forms_of_attention_agree_in_fp32() -> None:
    images = torch.randn(4, 3, 32, 32)
    results = []
    for machine in (Machine(CPU, "bf16"), Machine(CPU, "fp32")):
        model = prepare(encoder(), machine)
        tokens = model.forward_tokens(images)
        tokens.square().mean().backward()
        results.append((tokens.detach(), model.blocks[0].attn.qkv.weight.grad))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-5, rtol=1e-4)


def test_machine_name_says_what_was_measured_on() -> None:
    assert f"torch {torch.__version__}" in machine_name(CPU)
    assert "cores" in machine_name(CPU)


def test_machine_name_is_that_of_the_device_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"chip of {device}")
    assert machine_name(torch.device("cuda"), 8).startswith("8 x chip of cuda, ")
    assert "chip of" not in machine_name(CPU)
    assert " (mps), " in machine_name(torch.device("mps"))
