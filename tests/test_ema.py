"""Moving averages: closed form, names, what is copied and what is left alone."""

import pytest
import torch
from torch import nn

from contramask.ema import cosine_momentum, ema_update, frozen_copy


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_frozen_copy_is_equal_apart_and_without_gradient() -> None:
    online = network()
    target = frozen_copy(online)
    assert all(
        torch.equal(a, b) for a, b in zip(target.parameters(), online.parameters(), strict=True)
    )
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in online.parameters())
    with torch.no_grad():
        online[0].weight.add_(1)  # type: ignore[index]
    assert not torch.equal(target[0].weight, online[0].weight)  # type: ignore[index]


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.996])
def test_one_update_is_the_closed_form(momentum: float) -> None:
    online, target = network(), network()
    before = state(target)
    ema_update(target, online, momentum)
    for name, parameter in target.named_parameters():
        expected = momentum * before[name] + (1 - momentum) * online.get_parameter(name)
        torch.testing.assert_close(parameter, expected)


def test_momentum_one_changes_nothing_and_zero_copies() -> None:
    online, target = network(), network()
    before = state(target)
    ema_update(target, online, 1.0)
    assert all(torch.equal(p, before[name]) for name, p in target.named_parameters())
    ema_update(target, online, 0.0)
    assert all(torch.equal(p, online.get_parameter(name)) for name, p in target.named_parameters())


def test_the_online_network_is_left_alone() -> None:
    online, target = network(), network()
    before = state(online)
    ema_update(target, online, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in online.state_dict().items())


def test_buffers_stay_the_targets_own() -> None:
    online, target = network(), network()
    online(torch.randn(8, 3))  # moves the online batch norm's statistics
    before = {name: buffer.clone() for name, buffer in target.named_buffers()}
    ema_update(target, online, 0.0)
    assert all(torch.equal(b, before[name]) for name, b in target.named_buffers())


def test_parameters_are_matched_by_name_not_by_order() -> None:
    def named(order: str, shift: float) -> nn.Module:
        parts = {key: nn.Linear(2, 2) for key in order}
        for i, key in enumerate(sorted(parts)):
            nn.init.constant_(parts[key].weight, i + shift)
        return nn.ModuleDict(parts)

    online, target = named("abc", 10.0), named("ca", 0.0)  # b: more than the target has
    ema_update(target, online, 0.0)
    assert (target.get_parameter("a.weight") == 10).all()
    assert (target.get_parameter("c.weight") == 12).all()


def test_a_name_the_online_network_lacks_is_refused() -> None:
    online, target = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"no parameters named 1\.weight, 1\.bias"):
        ema_update(target, online, 0.9)


def test_the_momentum_schedule() -> None:
    assert cosine_momentum(0.996, 0.996, 0.37) == 0.996
    assert cosine_momentum(0.99, 1.0, 0.0) == pytest.approx(0.99)
    assert cosine_momentum(0.99, 1.0, 0.5) == pytest.approx(0.995)
    assert cosine_momentum(0.99, 1.0, 1.0) == 1.0
    steps = [cosine_momentum(0.99, 1.0, i / 10) for i in range(11)]
    assert steps == sorted(steps)
