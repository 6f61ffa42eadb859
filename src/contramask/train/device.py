"""Where and how precisely to compute, and the settings that make a processor fast."""

import logging
import os
import platform
from contextlib import AbstractContextManager
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from timm.layers.attention import Attention
from timm.models.beit import Attention as BeitAttention
from timm.models.vision_transformer_sam import Attention as WindowAttention
from torch import nn

from contramask.models.precision import has_fast_bf16
from contramask.startup import keep_freed_memory
from contramask.train.attention import asking, attention_order, tell_kernels
from contramask.typed import STRICT, Choice

log = logging.getLogger(__name__)

Precision = Literal["bf16", "fp32"]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=STRICT)
class LaunchConfig:
    """Hardware and safety, apart from what is science; they never enter an experiment's hash.

    Pre-training runs as one process for each of `devices` on each of `nodes` machines; all other
    stages as one. `workers` are the processes that run `pretrain.views.transforms`, where there
    are any; None: as many as there are cores but one. With 0 a thread runs them.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    workers: int | None = Field(default=None, ge=0, le=256)
    devices: Literal["auto"] | Count = "auto"  # of one machine; auto: all accelerators, or one cpu
    nodes: int = Field(default=1, ge=1)  # machines; the others join with `contramask join`
    rendezvous: str | None = None  # host:port of one of them, on which all meet
    #: Of several processes: each has a whole network (ddp), or a part of every weight, gradient and
    #: average (fsdp2), for networks too large for one device.
    sharding: Literal["ddp", "fsdp2"] = "ddp"
    restarts: int = Field(default=3, ge=0)  # of all processes, after one of them was lost
    keep_last: int = Field(default=1, ge=1)  # running checkpoints
    milestones: tuple[Count, ...] = ()  # epochs after which a checkpoint stays for good
    compile: Choice = "auto"  # torch.compile; auto: long pre-trainings in which it proves faster
    #: yes: a split's pixels are kept on the device; auto: on CUDA, where they take little of it.
    resident: Choice = "auto"

    @model_validator(mode="after")
    def _fits(self) -> "LaunchConfig":
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(
                f"nodes {self.nodes} need a place to meet; set launch.rendezvous to host:port of "
                "one of the machines, such as node1:29400"
            )
        return self

    @property
    def worker_count(self) -> int:
        """`workers`, chosen by the machine if it was not."""
        return max(1, available_cores() - 1) if self.workers is None else self.workers


@plain_dataclass(frozen=True)
class Machine:
    """The device and precision one process computes with."""

    device: torch.device
    precision: Precision
    compile: Choice = "auto"  # see `train.compiling`
    resident: Choice = "auto"  # whether images stay on the device, see `data.resident`

    def autocast(self) -> AbstractContextManager[None]:
        """A context in which matrix products run in this precision (weights stay float32)."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )

    def attention(self) -> AbstractContextManager[None]:
        """A context for forward and backward in which fused attention is the device's fast one."""
        return asking(attention_order(self.device))

    @property
    def dtype(self) -> torch.dtype:
        """Of matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def pick_machine(config: LaunchConfig) -> Machine:
    """Choose the device and the precision it is fast with, and set the process up for it.

    bf16 is chosen where hardware computes it: CUDA from Ampere on, processors with avx512_bf16 or
    AMX. Raises `ValueError` when the device asked for is not there.
    """
    device = torch.device(_device_name(config.device))
    precision: Precision = "bf16" if has_fast_bf16(device) else "fp32"
    if config.precision != "auto":
        precision = config.precision
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what autocast leaves in float32
    return Machine(device, precision, config.compile, config.resident)


def tell_change(name: str, before: str | None, machine: Machine) -> None:
    """Warn if a training that was done in another precision goes on in this machine's."""
    if before not in (None, machine.precision):
        log.warning(
            "%s: launch.precision=%s changes how this training rounds from here on; it was %s",
            *(name, machine.precision, before),
        )


def device_count(config: LaunchConfig) -> int:
    """How many devices of this machine a launch takes; raises `ValueError` if they are not there.

    Any number of processes may share a processor.
    """
    name = _device_name(config.device)
    there = torch.cuda.device_count() if name == "cuda" else 1
    if config.devices == "auto":
        return there
    if config.devices > there and name != "cpu":
        raise ValueError(
            f"launch.devices is {config.devices}, and this machine has {there} of {name}"
        )
    return config.devices


def prepare(module: nn.Module, machine: Machine) -> nn.Module:
    """Move a module to the machine and give its attention the form that is fast there.

    The fused kernel's bf16 backward pass on processors is 4-10 times slower than two matrix
    products and a softmax, with the same gradients; on accelerators it is the fast one.
    """
    explicit = machine.device.type == "cpu" and machine.precision == "bf16"
    for part in module.modules():
        if isinstance(part, Attention | BeitAttention | WindowAttention):
            part.fused_attn = not explicit  # type: ignore[misc]  # final only for TorchScript
    if order := attention_order(machine.device):
        tell_kernels(module, machine.dtype, machine.device, order)
    return module.to(machine.device)


def available_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_name(device: torch.device, processes: int = 1) -> str:
    """What computes, cores and torch version: what a measured number must name.

    processes: how many computed together, each on an accelerator of its own where `device` is one.
    """
    if device.type == "cuda":
        chip = f"{processes} x {torch.cuda.get_device_name(device)}"
    else:
        capabilities = torch.cpu.get_capabilities()
        chip = str(capabilities.get("cpu_name") or platform.processor() or platform.machine())
        chip = f"{chip} ({device.type})" if device.type != "cpu" else chip
    return f"{chip}, {os.cpu_count()} cores, torch {torch.__version__}"


def _device_name(wanted: str) -> str:
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return "cuda" if has["cuda"] else "cpu"
    if not has[wanted]:
        there = ", ".join(name for name, present in has.items() if present)
        raise ValueError(f"launch.device is {wanted}, which this machine lacks; it has: {there}")
    return wanted
