"""Run by torchrun in a test: losses and gradients of two processes, each with half of a batch.

python -m torch.distributed.run ... two_processes.py FOLDER; FOLDER/<method>-<parts>.pt are written.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from contramask.data.loader import ImageLoader
from contramask.data.views import ViewConfig, ViewMaker
from contramask.methods import MethodConfig, build_method, encoder_for
from contramask.methods.base import Method
from contramask.methods.cmae import CMAEConfig
from contramask.methods.cmae_mao import CMAEMaoConfig
from contramask.methods.conmim import ConMIMConfig
from contramask.methods.mae import MAEConfig
from contramask.methods.mim_target import PixelTargetConfig
from contramask.methods.supmim import SupMIMConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig
from contramask.train.device import Machine
from contramask.train.loop import train_step
from contramask.train.world import World, connect, joined, parallel

CPU = torch.device("cpu")
SMALL = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
METHODS: dict[str, MethodConfig] = {
    "mae": MAEConfig(decoder=SMALL),
    "cmae": CMAEConfig(decoder=SMALL, feature_decoder=SMALL, head_hidden_dim=16, head_out_dim=8),
    "cmae_mao": CMAEMaoConfig(decoder=SMALL, head_hidden_dim=16, head_out_dim=8),
    "conmim": ConMIMConfig(head_hidden_dim=16, head_out_dim=8),
    "supmim": SupMIMConfig(decoder=SMALL, target=PixelTargetConfig()),
    "supmim_shared": SupMIMConfig(decoder=SMALL, target=PixelTargetConfig(), mode="shared"),
}
PARTS = (1, 2)  # into which a process cuts its half
MANIFEST = {"classes": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.25] * 3, "data_hash": "0"}


class Noise:
    """24 images of 16 px; some have no class."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
        self.labels = rng.integers(-1, 3, 24)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        return self.pixels[indices]


def make(config: MethodConfig, world: World, batch_size: int = 12) -> tuple[Method, ImageLoader]:
    torch.manual_seed(0)
    sizes = EncoderConfig(patch_size=4, embed_dim=16, depth=2, num_heads=2)
    if isinstance(config, ConMIMConfig):
        config = replace(config, mask_block=1)
    method = build_method(config, encoder_for(config, sizes, (16, 16), 3)).train()
    method.attach(MANIFEST, None)
    connect(method, world)
    views = ViewMaker(ViewConfig(), config.view_mode, (16, 16), [0.5] * 3, [0.25] * 3)
    share = (world.rank, world.size)
    return method, ImageLoader(Noise(), views, batch_size, 0, CPU, None, share)


def train(config: MethodConfig, world: World, accumulate: int = 1) -> dict[str, torch.Tensor]:
    """Two steps of plain descent: losses, the gradients of the first one, all weights.

    In float64: batch norms of few, similar images enlarge what float32 rounds.
    """
    method, loader = make(config, world)
    made = list(loader.epoch(0))
    usual = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    try:
        return _train(method.double(), made, world, accumulate)
    finally:
        torch.Tensor.float = usual  # type: ignore[method-assign]


def _train(
    method: Method, made: list[dict[str, torch.Tensor]], world: World, accumulate: int
) -> dict[str, torch.Tensor]:
    trained = parallel(method, world)
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    machine, losses, gradients = Machine(CPU, "fp32"), [], {}
    for step, views in enumerate(made):
        batch = {k: v.double() if v.is_floating_point() else v for k, v in views.items()}
        output = train_step(trained, batch, optimizer, machine, 0.5 + step / 2, None, accumulate)
        losses.append(world.sum(output.loss.detach()) / world.size)
        for name, parameter in method.named_parameters():
            if step == 0 and parameter.grad is not None:
                gradients[f"gradient {name}"] = parameter.grad.clone()
    return {"losses": torch.stack(losses), **gradients, **method.state_dict()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined("cpu") as world:
        for name, config in METHODS.items():
            for parts in PARTS:
                result = train(config, world, parts)
                if world.is_main:
                    torch.save(result, Path(sys.argv[1]) / f"{name}-{parts}.pt")
