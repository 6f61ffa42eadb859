"""MAE's linear probe: its optimiser step by step, and a frozen encoder."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.tracker import NullTracker
from contramask.train.device import Machine
from contramask.transfer import strict_linear as module
from contramask.transfer.classifiers import top1
from contramask.transfer.features import extract_features, labelled
from contramask.transfer.strict_linear import StrictHead, StrictLinearConfig, lars, strict_linear

FP32 = Machine(torch.device("cpu"), "fp32")


def reference_step(parameters: list[nn.Parameter], momenta: list[Tensor], lr: float) -> None:
    """MAE's LARS: weights move by 0.001 of their norm, biases by their gradient."""
    for parameter, momentum in zip(parameters, momenta, strict=True):
        update = parameter.grad
        if update is None:
            continue
        if parameter.ndim > 1:
            weight_norm, update_norm = parameter.detach().norm(), update.norm()
            trusted = weight_norm > 0 and update_norm > 0
            update = update * (0.001 * weight_norm / update_norm if trusted else 1.0)
        momentum.mul_(0.9).add_(update)
        parameter.data.add_(momentum, alpha=-lr)


def test_the_first_30_losses_equal_a_reference() -> None:
    torch.manual_seed(0)
    ours = StrictHead(12, 5)
    theirs = copy.deepcopy(ours)
    features, labels = torch.randn(256, 12) * 3 + 1, torch.randint(0, 5, (256,))
    optimizer = lars(ours, lr=6.4)
    parameters = list(theirs.parameters())
    momenta = [torch.zeros_like(p) for p in parameters]
    losses: list[tuple[float, float]] = []
    for _ in range(30):
        loss = F.cross_entropy(ours(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        other = F.cross_entropy(theirs(features), labels)
        for parameter in parameters:
            parameter.grad = None
        other.backward()
        reference_step(parameters, momenta, 6.4)
        losses.append((loss.item(), other.item()))
    for our_loss, their_loss in losses:
        assert our_loss == pytest.approx(their_loss, abs=1e-3)
    assert losses[-1][0] < losses[0][0]
    # Without adaptation the weights would have run away.
    weight = ours[1].get_parameter("weight").detach()
    assert 0.01 < float(weight.norm()) < 2


def test_the_head_is_batch_norm_without_gain_and_small_weights() -> None:
    head = StrictHead(64, 10)
    assert [tuple(p.shape) for p in head.parameters()] == [(10, 64), (10,)]
    norm, linear = head
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.eps == 1e-6
    assert float(linear.get_parameter("weight").detach().std()) == pytest.approx(0.01, rel=0.15)
    assert not linear.get_parameter("bias").any()


def test_it_learns_on_views_and_leaves_the_encoder_alone(
    shade_store: Store, shade_bundle: EncoderBundle
) -> None:
    before = {k: v.clone() for k, v in shade_bundle.encoder.state_dict().items()}
    config = StrictLinearConfig(epochs=30, warmup_epochs=3, batch_size=16, base_lr=100)
    trained = strict_linear(
        *(shade_bundle, labelled(shade_store["train"]), 2, config, FP32, NullTracker())
    )
    val = labelled(shade_store["val"])
    features = extract_features(shade_bundle, val, FP32)
    for readout, values in features.items():
        scores = trained.scores(readout, values)
        assert scores.shape == (16, 2)
        assert top1(scores, torch.from_numpy(val.labels)) > 90
    after = shade_bundle.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.grad is None for p in shade_bundle.encoder.parameters())
    assert next(shade_bundle.encoder.blocks[0].parameters()).requires_grad


def test_how_many_views_are_read_at_once_changes_nothing(
    shade_store: Store, shade_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = StrictLinearConfig(epochs=2, warmup_epochs=0, batch_size=24)
    images = labelled(shade_store["train"])
    weights = []
    for chunk in (256, 5):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        trained = strict_linear(shade_bundle, images, 2, config, FP32, NullTracker())
        weights.append(trained.heads["mean"][1].weight.detach())
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-4)


def test_a_batch_larger_than_the_data_shrinks(
    shade_store: Store, shade_bundle: EncoderBundle
) -> None:
    config = StrictLinearConfig(epochs=1, warmup_epochs=0)
    images = labelled(shade_store["train"])
    trained = strict_linear(shade_bundle, images, 2, config, FP32, NullTracker())
    assert sorted(trained.heads) == ["cls", "mean"]
