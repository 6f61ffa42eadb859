"""Peers: missing packages are told in a sentence; where they are there, they do our work."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import Adam

from contramask.bench import peers
from contramask.bench.ours import fixed_batches
from contramask.bench.peers import build_peer, peer_variants, require, settings
from contramask.bench.sizes import BenchConfig
from contramask.bench.variant import FixedBatches, LossCheck, first_losses
from contramask.train.device import Machine

CPU = Machine(torch.device("cpu"), "fp32")


def sizes(method: str, peer: str) -> BenchConfig:
    return BenchConfig(
        method=method, arch="vit_nano", patch_size=4, image_size=16, batch_size=64, peers=(peer,)
    )


@pytest.mark.parametrize(("name", "package"), [("hf", "transformers"), ("lightly", "lightly")])
def test_a_missing_package_is_named_with_what_to_do(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted: None)
    text = rf"peer {name} is the package {package}, .* `uv sync --extra bench`, or leave"
    with pytest.raises(ValueError, match=text):
        require(name)


@pytest.mark.parametrize(
    ("machine", "names"),
    [
        (CPU, ["as shipped, fp32", "at its best"]),
        (Machine(CPU.device, "bf16"), ["as shipped, fp32", "as shipped, bf16", "at its best"]),
    ],
)
def test_peers_run_as_shipped_and_at_their_best(machine: Machine, names: list[str]) -> None:
    found = settings(machine, with_compiled=False)
    assert [setting.name for setting in found] == names
    assert found[-1].precision == machine.precision
    assert (found[-1].attention == "explicit") == (machine.precision == "bf16")


def test_a_peer_at_its_best_is_compiled_where_ours_is() -> None:
    *others, best, last = settings(CPU, with_compiled=True)
    assert last.name == "at its best, compiled"
    assert replace(last, name=best.name, prepared=best.prepared) == best
    trainee = FixedBatches(nn.Linear(2, 2), Adam([nn.Parameter(torch.ones(1))]), CPU, [])
    assert all(s.prepared(trainee) is trainee for s in [*others, best])
    assert trainee.model._compiled_call_impl is None
    last.prepared(trainee)
    assert trainee.model._compiled_call_impl is not None


@pytest.mark.parametrize("method", ["mae", "cmae"])
@pytest.mark.parametrize("peer", ["hf", "lightly", "timm"])
def test_a_peer_trains_in_all_settings_alike(method: str, peer: str) -> None:
    pytest.importorskip(peers.PACKAGES[peer])
    config = sizes(method, peer)
    batches = fixed_batches(config, CPU)
    machine = Machine(CPU.device, "bf16")
    losses = [first_losses(v.start()) for v in peer_variants(config, machine, batches)]
    assert losses[0][4] < losses[0][0]
    assert all(LossCheck(other, losses[0]).passed for other in losses[1:])
    assert losses[1] != losses[0]  # bf16 is another precision
    assert losses[2] != losses[1]  # and explicit attention another order of work


@pytest.mark.parametrize("peer", ["hf", "lightly", "timm"])
def test_target_networks_of_cmae_follow_and_get_no_gradient(peer: str) -> None:
    pytest.importorskip(peers.PACKAGES[peer])
    config = sizes("cmae", peer)
    method = build_peer(peer, config, "shipped")
    (batch, *_) = fixed_batches(config, CPU)
    method(batch).loss.backward()
    target = dict(method.target_encoder.named_parameters())
    assert target
    assert all(p.grad is None for p in target.values())
    before = {name: p.clone() for name, p in target.items()}
    for parameter in method.parts.encoder.parameters():
        parameter.data += 1
    method.after_step(0.5)
    assert all(float((p - before[name]).mean()) > 0 for name, p in target.items())
    tokens = method.parts.read(method.target_encoder, batch["target_view"])
    assert tokens.shape == (64, 17, 128)  # every patch and the class token
