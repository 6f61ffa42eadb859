"""The peers' equivalent training step, in the settings people run them in.

A peer brings encoder, decoder, masking and pixel loss as published in its package; nothing in it is
edited. None ships CMAE: there, momentum branch, heads and contrastive loss around its parts are
ours, so that the comparison is about its parts.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from contramask.bench.ours import LEARNING_RATE, WEIGHT_DECAY, flops_per_image
from contramask.bench.sizes import BenchConfig, PeerName
from contramask.bench.variant import FixedBatches, Variant, compiled
from contramask.ema import ema_update, frozen_copy
from contramask.losses import info_nce
from contramask.methods.base import Batch, StepOutput
from contramask.methods.cmae import CMAEConfig
from contramask.models.heads import MLPHead
from contramask.train.device import Machine, Precision

#: Name on the command line -> the package it is imported from.
PACKAGES: dict[PeerName, str] = {"hf": "transformers", "lightly": "lightly", "timm": "timm"}


def as_it_is(trainee: FixedBatches) -> FixedBatches:
    """The trainee itself."""
    return trainee


class PeerParts(nn.Module):
    """What a peer brings; one class for each, in `peer_<name>.py`."""

    embed_dim: int
    encoder: Any  # the package's own class

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """The masked-image loss of a view, and features (B, D) of its visible patches."""
        raise NotImplementedError

    def whole_encoder(self) -> nn.Module:
        """A frozen copy of the encoder that reads every patch."""
        raise NotImplementedError

    def read(self, encoder: nn.Module, view: Tensor) -> Tensor:
        """What `whole_encoder` makes of views (B, C, H, W): tokens (B, 1+L, D)."""
        tokens: Tensor = encoder(view)
        return tokens

    def use_explicit_attention(self) -> None:
        """Have attention computed by two matrix products and a softmax."""
        raise NotImplementedError


@dataclass(frozen=True)
class Setting:
    """How a peer is run; `attention` and `optimizer` as its own examples have them, or tuned."""

    name: str
    precision: Precision
    attention: str  # "shipped" or "explicit"
    optimizer: str  # "plain" or "fused"
    prepared: Callable[[FixedBatches], FixedBatches] = as_it_is


def settings(machine: Machine, with_compiled: bool) -> list[Setting]:
    """As shipped, in float32 and under bf16 autocast, and with what makes a peer fastest here.

    All variants share the process, hence its OpenMP waiting and allocator: a gift to the peers.
    """
    found = [Setting("as shipped, fp32", "fp32", "shipped", "plain")]
    if machine.precision == "bf16":
        found.append(Setting("as shipped, bf16", "bf16", "shipped", "plain"))
    explicit = machine.device.type == "cpu" and machine.precision == "bf16"
    attention = "explicit" if explicit else "shipped"
    best = Setting("at its best", machine.precision, attention, "fused")
    found.append(best)
    if with_compiled:
        found.append(replace(best, name="at its best, compiled", prepared=compiled))
    return found


def peer_variants(config: BenchConfig, machine: Machine, batches: list[Batch]) -> list[Variant]:
    """The chosen peers in all settings; raises `ValueError` naming what is not installed."""
    for name in config.peers:
        require(name)
    variants = []
    for name in config.peers:
        flops = flops_per_image(build_peer(name, config, "explicit"), batches[0])
        chosen = settings(machine, config.compile)
        reference = f"{name}, {chosen[0].name}"
        for setting in chosen:
            start = partial(_start, name, config, machine.device, setting, batches)
            own = None if setting is chosen[0] else reference
            variants.append(Variant(name, setting.name, start, flops, own))
    return variants


def require(name: PeerName) -> None:
    """Raise `ValueError` with what to do if a peer's package is missing."""
    package = PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"the peer {name} is the package {package}, which is not installed; install it with "
            f"`uv sync --extra bench`, or leave {name} out of --peers"
        )


def build_peer(name: PeerName, config: BenchConfig, attention: str) -> "PeerMethod":
    """A peer's method with fresh weights, always the same."""
    torch.manual_seed(0)
    parts = _maker(name)(config)
    if attention == "explicit":
        parts.use_explicit_attention()
    method = config.method_config()
    if isinstance(method, CMAEConfig):
        return PeerCMAE(parts, method).train()
    return PeerMethod(parts).train()


class PeerMethod(nn.Module):
    """A peer's masked autoencoder, called as our methods are."""

    def __init__(self, parts: PeerParts) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss."""
        return StepOutput(self.parts(batch["view"])[0])


class PeerCMAE(PeerMethod):
    """CMAE from a peer's parts; heads, contrastive loss and momentum update are ours."""

    def __init__(self, parts: PeerParts, config: CMAEConfig) -> None:
        super().__init__(parts)
        self.config = config
        hidden, out = config.head_hidden_dim, config.head_out_dim
        self.projector = MLPHead(parts.embed_dim, hidden, out, config.head_norm_eps)
        self.predictor = MLPHead(out, hidden, out, config.head_norm_eps)
        self.target_encoder = parts.whole_encoder()
        self.target_projector = frozen_copy(self.projector)

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss."""
        tau = self.config.temperature
        recon, feature = self.parts(batch["view"])
        query = self.predictor(self.projector(feature))
        with torch.no_grad():
            tokens = self.parts.read(self.target_encoder, batch["target_view"])
            key = self.target_projector(tokens[:, 1:].mean(dim=1))
        contrast = info_nce(query, key, tau, lambda keys: keys, 0)
        return StepOutput(recon + 2 * tau * contrast)

    def after_step(self, progress: float) -> None:
        """Move the target networks."""
        ema_update(self.target_encoder, self.parts.encoder, self.config.momentum)
        ema_update(self.target_projector, self.projector, self.config.momentum)


def _maker(name: PeerName) -> Callable[[BenchConfig], PeerParts]:
    """The class is imported only here: its package is optional."""
    if name == "hf":
        from contramask.bench.peer_hf import HFParts

        return HFParts
    if name == "lightly":
        from contramask.bench.peer_lightly import LightlyParts

        return LightlyParts
    from contramask.bench.peer_timm import TimmParts

    return TimmParts


def _start(
    name: PeerName,
    config: BenchConfig,
    device: torch.device,
    setting: Setting,
    batches: list[Batch],
) -> FixedBatches:
    method = build_peer(name, config, setting.attention).to(device)
    trained = [p for p in method.parameters() if p.requires_grad]
    fused = True if setting.optimizer == "fused" else None
    optimizer = torch.optim.AdamW(
        trained, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=fused
    )
    machine = Machine(device, setting.precision)
    return setting.prepared(FixedBatches(method, optimizer, machine, batches))
