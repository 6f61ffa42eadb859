"""A batch that passes through in parts teaches what it teaches in one pass."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contramask.methods import MethodConfig
from contramask.methods.base import Batch, Method
from contramask.methods.coupled import CoupledMethod
from contramask.models.family import set_drop_path
from contramask.train.backward import backward, reads_twice
from contramask.train.device import Machine
from contramask.train.world import World

SCRIPT = Path(__file__).with_name("two_processes.py")
_spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
assert _spec is not None and _spec.loader is not None  # noqa: PT018
two_processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(two_processes)
PLAIN: dict[str, MethodConfig] = two_processes.METHODS
VARIANTS: dict[str, MethodConfig] = {
    **PLAIN,
    "cmae_final": replace(PLAIN["cmae"], target_norm="final", contrast_scale="one"),
    "mao_branch": replace(PLAIN["cmae_mao"], con_site="sdmae_branch", recon_views="first"),
    "mao_hard": replace(PLAIN["cmae_mao"], position="hard", masks="own", key_input="full"),
    "mao_alone": replace(PLAIN["cmae_mao"], con_site="none"),
    "conmim_centred": replace(PLAIN["conmim"], key_centering="per_position"),
    "supervised": replace(PLAIN["supmim"], lambda_mim=0.0),
    "supmim_dropped": replace(
        PLAIN["supmim"], mode="shared", mask_style="drop", clean_share=0.0, pool="cls"
    ),
    "supmim_split": replace(PLAIN["supmim"], mode="split", split_share=0.4),
}
MACHINE = Machine(torch.device("cpu"), "fp32")


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("name", VARIANTS)
def test_losses_gradients_weights_and_buffers_are_those_of_one_pass(name: str, parts: int) -> None:
    """Over two steps in float64, so with target networks and batch norms' averages in between."""
    whole = two_processes.train(VARIANTS[name], World())
    found = two_processes.train(VARIANTS[name], World(), parts)
    assert found.keys() == whole.keys()
    assert any(key.startswith("gradient") for key in found)
    for key, value in whole.items():
        torch.testing.assert_close(
            found[key], value, rtol=0, atol=1e-10, msg=lambda m, k=key: k + m
        )


@pytest.fixture
def doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses compute in float64 where they would in float32."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def made(name: str) -> tuple[Method, Batch]:
    method, loader = two_processes.make(VARIANTS[name], World())
    batch = next(iter(loader.epoch(0)))
    return method.double(), {
        k: v.double() if v.is_floating_point() else v for k, v in batch.items()
    }


def terms_of(name: str, parts: int) -> dict[str, Tensor]:
    method, batch = made(name)
    output = backward(method, batch, MACHINE, parts)
    return {"loss": output.loss.detach(), **output.terms}


@pytest.mark.parametrize("name", VARIANTS)
def test_terms_are_those_of_one_pass(name: str, doubles: None) -> None:
    expected, found = terms_of(name, 1), terms_of(name, 3)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key].double(), value.double(), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "twice"), [("mae", False), ("supmim", False), ("mao_alone", False), ("cmae", True)]
)
def test_only_parts_whose_images_meet_are_read_twice(name: str, twice: bool) -> None:
    method, _ = made(name)
    assert reads_twice(method, 2) == twice
    assert not reads_twice(method, 1)


class Counted:
    """A function that counts its calls and the images of each."""

    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        self.function, self.calls = function, list[tuple[int, bool]]()

    def __call__(self, first, *others):  # type: ignore[no-untyped-def]
        self.calls.append((len(first), torch.is_grad_enabled()))
        return self.function(first, *others)


def test_what_needs_no_second_reading_gets_none(
    monkeypatch: pytest.MonkeyPatch, doubles: None
) -> None:
    """The encoder reads each part twice; pixels are decoded, and targets read, once."""
    method, batch = made("cmae")
    spies = {
        name: Counted(function)
        for name, function in {
            "encoder": method.encoder.forward_tokens,
            "pixel_decoder": method.pixel_decoder.predict_hidden,
            "feature_decoder": method.feature_decoder.predict_mean,
            "target_encoder": method.target_encoder.forward_tokens,
            "projector": method.projector.forward,
        }.items()
    }
    monkeypatch.setattr(method.encoder, "forward_tokens", spies["encoder"])
    monkeypatch.setattr(method.pixel_decoder, "predict_hidden", spies["pixel_decoder"])
    monkeypatch.setattr(method.feature_decoder, "predict_mean", spies["feature_decoder"])
    monkeypatch.setattr(method.target_encoder, "forward_tokens", spies["target_encoder"])
    monkeypatch.setattr(method.projector, "forward", spies["projector"])
    backward(method, batch, MACHINE, 3)
    both = [(4, False)] * 3 + [(4, True)] * 3
    assert spies["encoder"].calls == spies["feature_decoder"].calls == both
    assert spies["pixel_decoder"].calls == [(4, True)] * 3
    assert spies["target_encoder"].calls == [(4, False)] * 3
    assert spies["projector"].calls == [(12, True)]


@pytest.mark.parametrize(("name", "views"), [("cmae", 1), ("cmae_mao", 2), ("conmim", 1)])
def test_batch_norms_count_a_batch_once(name: str, views: int, doubles: None) -> None:
    method, batch = made(name)
    backward(method, batch, MACHINE, 3)
    counts = [v for k, v in method.state_dict().items() if k.endswith("num_batches_tracked")]
    assert counts
    assert all(int(count) == views for count in counts)


@pytest.mark.parametrize("name", ["cmae", "cmae_mao", "conmim"])
def test_both_readings_of_a_part_drop_the_same_paths(
    name: str, monkeypatch: pytest.MonkeyPatch, doubles: None
) -> None:
    """Else the gradient that was taken at one network would be sent through another."""
    method, batch = made(name)
    assert isinstance(method, CoupledMethod)
    online = method.online_encoder if name == "conmim" else method.encoder
    set_drop_path(online.blocks, 0.9)
    features, seen = method.features, list[tuple[Tensor, ...]]()

    def watched(reading: object) -> tuple[Tensor, ...]:
        seen.append(features(reading))
        return seen[-1]

    monkeypatch.setattr(method, "features", watched)
    torch.manual_seed(0)
    losses = [backward(method, batch, MACHINE, 2).loss for _ in range(2)]
    assert len(seen) == 8
    for first, second in [(0, 2), (1, 3), (4, 6), (5, 7)]:
        assert all(torch.equal(*both) for both in zip(seen[first], seen[second], strict=True))
    assert not torch.equal(seen[0][0], seen[4][0])  # the next step draws other paths
    assert not torch.equal(*losses)


def test_bf16_changes_little() -> None:
    """The casts of a reading without gradient must not serve the one with gradient."""
    losses, gradients = [], []
    for precision in ("fp32", "bf16"):
        method, loader = two_processes.make(VARIANTS["cmae"], World())
        batch = next(iter(loader.epoch(0)))
        machine = Machine(torch.device("cpu"), precision)  # type: ignore[arg-type]
        losses.append(float(backward(method, batch, machine, 3).loss.detach()))
        weights = [p for p in method.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in weights)
        gradients.append(torch.cat([p.grad.flatten() for p in weights if p.grad is not None]))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.9
