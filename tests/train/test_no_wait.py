"""Between two log lines no step waits for its device: nothing in it asks for a value.

A device that computes nothing stands in for an accelerator. On `meta` whatever needs a value
(`item`, boolean masks, `nonzero`) fails by itself; `Watch` also finds what is sent or fetched.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contramask.data.colour import ColourConfig
from contramask.data.views import ViewConfig, ViewMaker
from contramask.draws import image_keys
from contramask.methods import MethodConfig, build_method, encoder_for
from contramask.methods.cmae import CMAEConfig
from contramask.methods.cmae_mao import CMAEMaoConfig
from contramask.methods.conmim import ConMIMConfig
from contramask.methods.mae import MAEConfig
from contramask.methods.mim_target import PixelTargetConfig
from contramask.methods.supmim import SupMIMConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig
from contramask.train.device import Machine
from contramask.train.guard import Guard
from contramask.train.loop import train_step
from contramask.train.meter import Meter
from contramask.train.optim import adamw, decay_groups
from contramask.train.world import World

META = torch.device("meta")
SMALL = DecoderConfig(embed_dim=16, depth=2, num_heads=2)
METHODS: dict[str, MethodConfig] = {
    "mae": MAEConfig(decoder=SMALL),
    "cmae": CMAEConfig(decoder=SMALL, feature_decoder=SMALL, head_hidden_dim=16, head_out_dim=8),
    "cmae_mao": CMAEMaoConfig(
        decoder=SMALL, position="hard", masks="own", head_hidden_dim=16, head_out_dim=8
    ),
    "conmim": ConMIMConfig(head_hidden_dim=16, head_out_dim=8),
    "supmim": SupMIMConfig(decoder=SMALL, target=PixelTargetConfig()),
    "supmim, shared": SupMIMConfig(
        decoder=SMALL, target=PixelTargetConfig(), mode="shared", clean_share=0, mask_style="drop"
    ),
    "supmim, replaced": SupMIMConfig(decoder=SMALL, target=PixelTargetConfig(), mode="shared"),
    "supmim, split": SupMIMConfig(decoder=SMALL, target=PixelTargetConfig(), mode="split"),
}
DATA = {"mean": [0.5] * 3, "std": [0.25] * 3, "classes": ["a", "b"], "data_hash": "0"}


class Watch(TorchDispatchMode):
    """While held, `found` collects every operation between host and device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {x.device for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.ndim}
        made = func(*args, **(kwargs or {}))
        got = {x.device for x in tree_leaves(made) if isinstance(x, Tensor)}
        name = str(func)
        # A list of numbers becomes a tensor of the host, which was sent before this is called.
        if (given and len(given | got) > 1) or (name.startswith("aten.lift") and META in got):
            self.found.append(name)
        return made


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in has none."""
    monkeypatch.setattr(torch, "autocast", lambda *given, **named: nullcontext())


def test_waiting_is_found() -> None:
    here = torch.ones(3, device=META)
    for wait in (
        lambda: torch.tensor([1.0, 2.0], device=META),
        lambda: torch.ones(3).to(META),
    ):
        with Watch() as watch:
            wait()
        assert len(watch.found) == 1
    with pytest.raises(RuntimeError):
        here.sum().item()
    with pytest.raises(NotImplementedError):
        here.cpu()
    with pytest.raises(NotImplementedError):
        here[here > 0]


def given_images(count: int) -> dict[str, Tensor]:
    """Images, their row numbers, labels and boxes, on the device."""
    return {
        "images": torch.empty(count, 40, 48, 3, dtype=torch.uint8, device=META),
        "index": torch.empty(count, dtype=torch.int64, device=META),
        "label": torch.empty(count, dtype=torch.int64, device=META),
        "boxes": torch.empty(count, 4, device=META),
    }


def make_views(maker: ViewMaker, given: dict[str, Tensor]) -> dict[str, Any]:
    key = image_keys(0, 1, given["index"])
    views = maker(given["images"], key, given["boxes"])
    return {**views, "index": given["index"], "key": key, "label": given["label"]}


@pytest.mark.parametrize("crop", ["random_resized", "full_box", "boxes", "inside_boxes"])
@pytest.mark.parametrize(
    "mode", ["single", "cmae_parity", "symmetric_shift", "independent_rrc", "weak_strong"]
)
def test_views(mode: Any, crop: Any) -> None:
    config = ViewConfig(crop=crop, colour=ColourConfig(solarise=0.2))
    maker = ViewMaker(config, mode, (32, 32), DATA["mean"], DATA["std"])
    make_views(maker, given_images(4))  # sends its constants, once
    with Watch() as watch:
        batch = make_views(maker, given_images(4))
    assert watch.found == []
    assert batch["view"].device == META


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", METHODS)
def test_steps(name: str, accumulate: int) -> None:
    config = METHODS[name]
    sizes = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
    method = build_method(config, encoder_for(config, sizes, (32, 32), 3))
    method.attach(DATA, None)
    method.to(META).train()
    maker = ViewMaker(ViewConfig(), config.view_mode, (32, 32), DATA["mean"], DATA["std"])
    optimizer = adamw(decay_groups(method, 0.05, "one_dim"), 1e-3)
    for group in optimizer.param_groups:  # the fused kernel wants a device that computes
        group.update(fused=False, foreach=True)
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    guard, meter = Guard("pretrain", World(), META, 0), Meter()

    def step(number: int) -> None:
        guard.step = number
        batch, machine = make_views(maker, given_images(8)), Machine(META, "fp32")
        output = train_step(method, batch, optimizer, machine, number / 9, 1.0, accumulate, guard)
        meter.add(output, guard.bad)

    step(0)
    with Watch() as watch:
        step(1)
    assert watch.found == []
