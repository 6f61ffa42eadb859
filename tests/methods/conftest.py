"""Images that a tiny model can learn in seconds, and a training on them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from contramask.draws import image_keys
from contramask.methods.base import Method, StepOutput

#: Trains a method: its steps' outputs, and how far the encoder's features spread afterwards.
Training = Callable[[Method], tuple[list[StepOutput], float]]


@pytest.fixture(scope="session")
def slopes() -> Tensor:
    """64 images (64, 3, 32, 32): a brightness slope in a random direction, on a random colour.

    Each visible patch tells the direction and hence the normalised pixels of all hidden ones; a
    model that reads none can only predict zero, at a loss of (P - 1) / P.
    """
    generator = torch.Generator().manual_seed(0)
    angle = 2 * torch.pi * torch.rand(64, 1, 1, 1, generator=generator)
    colour = torch.randn(64, 3, 1, 1, generator=generator)
    place = torch.linspace(-1, 1, 32)
    return angle.cos() * place[:, None] + angle.sin() * place + 0.5 * colour


@pytest.fixture
def train_80_steps(slopes: Tensor) -> Training:
    """80 steps on the slopes; the target view is shifted and noisy.

    The spread is the deviation of unit features per dimension times sqrt(D): 1 over the whole
    sphere, 0 when collapsed.
    """
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(slopes.shape, generator=generator)
    views = {"view": slopes, "target_view": slopes.roll((2, 1), (2, 3)) + noise}

    def train(method: Method) -> tuple[list[StepOutput], float]:
        optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
        outputs = []
        for step in range(80):
            outputs.append(method({**views, "key": image_keys(0, step, torch.arange(64))}))
            optimizer.zero_grad()
            outputs[-1].loss.backward()
            optimizer.step()
            method.after_step((step + 1) / 80)
        with torch.no_grad():
            features = method.encoder.forward_tokens(slopes)[:, 1:].mean(dim=1)
        spread = F.normalize(features, dim=1).std(dim=0).mean() * features.shape[1] ** 0.5
        return outputs, float(spread)

    return train
