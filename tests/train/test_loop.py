"""The loop: it learns, it can be interrupted without a trace, and it stops at a NaN."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from contramask.data.loader import ImageLoader
from contramask.data.views import ViewConfig, ViewMaker
from contramask.methods import build_method
from contramask.methods.base import Method, StepOutput
from contramask.methods.cmae import CMAEConfig
from contramask.methods.mae import MAEConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, VisionEncoder
from contramask.tracker import JsonLinesTracker, NullTracker
from contramask.train import loop
from contramask.train.checkpoint import Keeper, ResumeRefused
from contramask.train.compiling import Trial
from contramask.train.device import Machine, prepare
from contramask.train.guard import NonFiniteLoss
from contramask.train.leftovers import forget
from contramask.train.loop import TrainPlan, fit
from contramask.train.optim import adamw, decay_groups
from contramask.train.schedule import warmup_cosine

CPU = torch.device("cpu")
SMALL = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
MAE = MAEConfig(decoder=SMALL)
CMAE = CMAEConfig(decoder=SMALL, feature_decoder=SMALL, head_hidden_dim=16, head_out_dim=8)
TIMES = ["images_per_s", "data_wait"]


class Ramps:
    """Images that grow brighter downwards or upwards: a hidden patch follows from a visible one."""

    def __init__(self, count: int, size: int = 16) -> None:
        rng = np.random.default_rng(0)
        slope = rng.choice([-1, 1], (count, 1, 1, 1)) * rng.uniform(40, 100, (count, 1, 1, 3))
        ramp = np.linspace(-1, 1, size)[None, :, None, None].repeat(size, axis=2)
        base = rng.uniform(110, 150, (count, 1, 1, 3))
        self.pixels = np.clip(base + slope * ramp, 0, 255).astype(np.uint8)
        self.labels = np.zeros(count, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        return self.pixels[indices]


def make_method(config: MAEConfig | CMAEConfig, drop_path: float = 0.0) -> Method:
    torch.manual_seed(0)
    sizes = EncoderConfig(patch_size=4, embed_dim=16, depth=2, num_heads=2)
    method = build_method(config, VisionEncoder((16, 16), 3, sizes))
    for block in method.encoder.blocks:
        block.drop_path1 = block.drop_path2 = DropPath(drop_path)
    return method


def make_loader(method: Method, count: int = 34, batch_size: int = 8) -> ImageLoader:
    """Four batches an epoch by default."""
    views = ViewMaker(ViewConfig(), method.config.view_mode, (16, 16), [0.5] * 3, [0.25] * 3)
    return ImageLoader(Ramps(count), views, batch_size, 0, CPU)


def make_plan(model: nn.Module, total: int = 12, **given: Any) -> TrainPlan:
    values: dict[str, Any] = {
        "name": "pretrain",
        "epochs": 3,
        "optimizer": adamw(decay_groups(model, 0.05, "one_dim"), 2e-3),
        "factor_at": lambda step: warmup_cosine(step, total, 2),
        "machine": Machine(CPU, "fp32"),
        "log_every": 3,
        "save_minutes": 0.0,
        **given,
    }
    return TrainPlan(**values)


class Breaking:
    """A source that breaks when a step is asked for, as a killed process would."""

    def __init__(self, source: ImageLoader, step: int) -> None:
        self.source, self.step = source, step
        self.batch_size, self.steps_per_epoch = source.batch_size, source.steps_per_epoch

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
        first = epoch * self.steps_per_epoch + start
        for step, batch in enumerate(self.source.epoch(epoch, start), first):
            if step == self.step:
                raise KeyboardInterrupt
            yield batch


class Recorder(NullTracker):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: Any, step: int) -> None:
        self.lines.append((step, dict(metrics)))


class Scalar(nn.Module):
    """loss = function(weight * x) of batches {"x": number}; counts its calls."""

    def __init__(self, function: Callable[[Tensor], Tensor], weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.function = function

    def forward(self, batch: dict[str, Any]) -> StepOutput:
        loss = self.function(self.weight * batch["x"]).sum()
        return StepOutput(loss, {"half": loss.detach() / 2})


class Given:
    """Batches {"x": value} from a list, two epochs long."""

    batch_size = 4

    def __init__(self, values: list[float]) -> None:
        self.values, self.steps_per_epoch = values, len(values) // 2

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Any]]:
        first = epoch * self.steps_per_epoch
        for value in self.values[first + start : first + self.steps_per_epoch]:
            yield {"x": value}


def scalar_plan(model: Scalar, lr: float = 0.1, **given: Any) -> TrainPlan:
    optimizer = torch.optim.SGD([{"params": model.parameters(), "peak_lr": lr}], lr=lr)
    constant: dict[str, Any] = {"epochs": 2, "factor_at": lambda step: 1.0, "log_every": 1}
    return make_plan(model, **{"optimizer": optimizer, **constant, **given})


@pytest.mark.parametrize("config", [MAE, CMAE], ids=["mae", "cmae"])
def test_training_lowers_the_loss_and_keeps_features_apart(config: MAEConfig | CMAEConfig) -> None:
    method = make_method(config)
    loader = make_loader(method, count=64, batch_size=32)
    optimizer = adamw(decay_groups(method, 0.05, "one_dim"), 1e-2)
    plan = make_plan(method, total=60, epochs=30, log_every=10, optimizer=optimizer)
    curve = fit(method, loader, plan, NullTracker())
    assert len(curve) == 6
    assert curve["recon_loss"].iloc[-1] < 0.85  # 1: every patch predicted as flat
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    if config is CMAE:
        assert curve["contrast_loss"].iloc[-1] < curve["contrast_loss"].iloc[0]
        assert curve["positive_cosine"].iloc[-1] > curve["negative_cosine"].iloc[-1]
        assert curve["feature_std"].iloc[-1] > 0.1


@pytest.mark.parametrize(("killed_at", "precision"), [(5, "fp32"), (6, "fp32"), (5, "bf16")])
@pytest.mark.parametrize("config", [MAE, CMAE], ids=["mae", "cmae"])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    config: MAEConfig | CMAEConfig, killed_at: int, precision: str, tmp_path: Path
) -> None:
    machine = Machine(CPU, precision)  # type: ignore[arg-type]

    def start() -> tuple[Method, ImageLoader, TrainPlan]:
        method = make_method(config, drop_path=0.3)
        prepare(method, machine)
        return method, make_loader(method), make_plan(method, machine=machine)

    whole, loader, plan = start()
    expected = fit(whole, loader, replace(plan, save_minutes=1e9), NullTracker())
    keeper = Keeper(tmp_path, {"seed": 0})
    first, loader, plan = start()
    with pytest.raises(KeyboardInterrupt):
        fit(first, Breaking(loader, killed_at), plan, NullTracker(), keeper)
    torch.manual_seed(99)  # another process
    second, loader, plan = start()
    tracker = Recorder()
    curve = fit(second, loader, plan, tracker, keeper)
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name
    pd.testing.assert_frame_equal(curve.drop(columns=TIMES), expected.drop(columns=TIMES))
    assert tracker.lines[0][0] == 3 * (killed_at // 3) + 3  # what was logged is not logged again


def test_a_compiled_training_continues_compiled_and_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traces as the real back end does, and needs no C++ compiler.
    monkeypatch.setattr(loop, "Trial", partial(Trial, backend="aot_eager"))
    asked = Machine(CPU, "fp32", compile=True)

    def run(machine: Machine, killed_at: int | None, keeper: Keeper | None) -> Method:
        method = make_method(CMAE)
        loader = make_loader(method)
        plan = make_plan(method, machine=machine, steady=True)
        source = loader if killed_at is None else Breaking(loader, killed_at)
        fit(method, source, plan, NullTracker(), keeper)
        return method

    whole = run(asked, None, None)
    assert whole._compiled_call_impl is not None
    keeper = Keeper(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        run(asked, 5, keeper)
    torch._dynamo.reset()  # another process
    second = run(Machine(CPU, "fp32"), None, keeper)  # auto: as it began
    assert second._compiled_call_impl is not None
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_a_continued_training_leaves_each_row_once(tmp_path: Path) -> None:
    log, keeper = tmp_path / "metrics.jsonl", Keeper(tmp_path, {})
    method = make_method(MAE)
    loader = make_loader(method)
    slow = make_plan(method, log_every=1, save_minutes=1e9)
    with pytest.raises(KeyboardInterrupt):  # nothing was kept: a new start
        fit(method, Breaking(loader, 2), slow, JsonLinesTracker(log), keeper)
    fit(method, Breaking(loader, 12), make_plan(method), NullTracker(), keeper)
    state = torch.load(keeper.path, weights_only=True)
    torch.save({**state, "step": 7, "rows": []}, keeper.path)
    JsonLinesTracker(log).log({"pretrain/loss": 1.0}, 8)  # after the checkpoint
    fit(method, loader, slow, JsonLinesTracker(log), keeper)
    found = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert found == [1, 2, 8, 9, 10, 11, 12]


def test_randomness_inside_the_model_is_fixed_by_seed_and_step() -> None:
    class Drawing(Scalar):
        def forward(self, batch: dict[str, Any]) -> StepOutput:
            drawn.append(float(torch.rand(())))  # as drop path and dropout do
            return super().forward(batch)

    runs = []
    for seed in (0, 0, 1):
        drawn: list[float] = []
        model = Drawing(lambda x: x)
        fit(model, Given([1, 1, 1, 1]), scalar_plan(model, seed=seed), NullTracker())
        runs.append(drawn)
    assert runs[0] == runs[1]
    assert len({*runs[0], *runs[2]}) == 8


def test_the_kept_time_goes_on_counting(tmp_path: Path) -> None:
    method = make_method(MAE)
    keeper = Keeper(tmp_path, {})
    loader, plan = make_loader(method), make_plan(method, log_every=100)
    with pytest.raises(KeyboardInterrupt):
        fit(method, Breaking(loader, 7), plan, NullTracker(), keeper)
    state = torch.load(keeper.path, weights_only=True)
    assert state["meter"]["steps"] == 7
    assert state["rows"] == []  # saving does not write a line of its own
    state["meter"]["since"] = 1000.0
    torch.save(state, keeper.path)
    curve = fit(method, loader, plan, NullTracker(), keeper)
    assert curve["step"].tolist() == [12]
    assert curve["images_per_s"].iloc[0] < 12 * 8 / 1000


def test_nothing_is_saved_before_it_is_due(tmp_path: Path) -> None:
    method = make_method(MAE)
    keeper = Keeper(tmp_path, {})
    plan = make_plan(method, save_minutes=5.0)
    with pytest.raises(KeyboardInterrupt):
        fit(method, Breaking(make_loader(method), 7), plan, NullTracker(), keeper)
    assert not keeper.path.exists()


def test_the_last_step_is_kept_until_the_results_are_safe(tmp_path: Path) -> None:
    method = make_method(MAE)
    keeper, loader = Keeper(tmp_path, {}), make_loader(method)
    plan = make_plan(method, save_minutes=5.0)
    curve = fit(method, loader, plan, NullTracker(), keeper)
    again = make_method(MAE)
    found = fit(again, loader, make_plan(again), NullTracker(), keeper)  # trains nothing
    pd.testing.assert_frame_equal(found, curve)
    for name, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_finished_run_forgets_its_checkpoint_when_told(tmp_path: Path) -> None:
    method = make_method(MAE)
    keeper = Keeper(tmp_path, {})
    fit(method, make_loader(method), make_plan(method), NullTracker(), keeper)
    assert keeper.path.exists()
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_configuration_is_not_continued(tmp_path: Path) -> None:
    method = make_method(MAE)
    loader, plan = make_loader(method), make_plan(method)
    kept = Keeper(tmp_path, {"pretrain": {"base_lr": 1e-3}})
    with pytest.raises(KeyboardInterrupt):
        fit(method, Breaking(loader, 4), plan, NullTracker(), kept)
    with pytest.raises(ResumeRefused, match=r"pretrain\.base_lr: 0\.001 .* 0\.002 now"):
        fit(method, loader, plan, NullTracker(), Keeper(tmp_path, {"pretrain": {"base_lr": 2e-3}}))


def test_a_cut_off_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    method = make_method(MAE)
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 the disk was full")
    with pytest.raises(ValueError, match=r"last\.pt cannot be read"):
        fit(method, make_loader(method), make_plan(method), NullTracker(), Keeper(tmp_path, {}))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_and_names_the_steps(bad: float, tmp_path: Path) -> None:
    model = Scalar(lambda x: x)
    keeper = Keeper(tmp_path, {})
    source = Given([1, 1, 1, 1, 1, bad, 1, 1])
    plan = scalar_plan(model, log_every=4)
    with pytest.raises(NonFiniteLoss, match=r"pretrain: the loss became .* at step 6"):
        fit(model, source, plan, NullTracker(), keeper)
    state = keeper.load(CPU)
    assert state is not None
    assert state["step"] == 5  # the last good one
    assert state["model"]["weight"].isfinite().all()


def test_without_a_checkpoint_it_stops_at_the_next_line() -> None:
    model = Scalar(lambda x: x)
    source = Given([1, 1, 1, 1, 1, float("nan"), 1, 1])
    with pytest.raises(NonFiniteLoss, match="at step 6"):
        fit(model, source, scalar_plan(model, log_every=4), NullTracker())


def test_weights_that_went_wrong_behind_a_finite_loss_are_not_kept(tmp_path: Path) -> None:
    model = Scalar(torch.sqrt, weight=0.0)  # loss 0, gradient infinite
    keeper = Keeper(tmp_path, {})
    with pytest.raises(NonFiniteLoss, match="the gradient became NaN or infinite at step 1"):
        fit(model, Given([1, 1]), scalar_plan(model, log_every=100), NullTracker(), keeper)
    assert not keeper.path.exists()


def test_a_nan_in_cmae_is_told_as_such() -> None:
    method = make_method(CMAE)
    with torch.no_grad():
        method.encoder.cls_token.fill_(float("nan"))
        method.target_encoder.cls_token.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="Lower the learning rate, set clip_grad"):
        fit(method, make_loader(method), make_plan(method), NullTracker())


def test_the_tracker_gets_every_line_by_step() -> None:
    method, tracker = make_method(CMAE), Recorder()
    curve = fit(method, make_loader(method), make_plan(method), tracker)
    assert [step for step, _ in tracker.lines] == curve["step"].tolist() == [3, 6, 9, 12]
    names = set(tracker.lines[0][1])
    assert {"pretrain/loss", "pretrain/recon_loss", "pretrain/contrast_loss"} <= names
    assert {"pretrain/lr", "pretrain/images_per_s", "pretrain/effective_rank"} <= names
    assert "pretrain/step" not in names
    assert tracker.lines[-1][1]["pretrain/loss"] == curve["loss"].iloc[-1]


def test_the_curve_has_means_between_lines_and_a_last_line() -> None:
    model = Scalar(lambda x: x)
    plan = scalar_plan(model, lr=1e-9, log_every=4)
    curve = fit(model, Given([1, 2, 3, 4, 5, 6]), plan, NullTracker())
    assert curve["step"].tolist() == [4, 6]
    assert curve["epoch"].tolist() == [4 / 3, 2]
    assert curve["loss"].tolist() == pytest.approx([2.5, 5.5])
    assert curve["half"].tolist() == pytest.approx([1.25, 2.75])
    assert (curve["images_per_s"] > 0).all()
    assert curve["data_wait"].between(0, 1).all()


def test_the_rate_follows_the_plan() -> None:
    model = Scalar(lambda x: x)
    factors = [1.0, 0.5, 0.25, 0.0]
    plan = scalar_plan(model, lr=0.1, factor_at=factors.__getitem__)
    curve = fit(model, Given([1, 1, 1, 1]), plan, NullTracker())
    assert curve["lr"].tolist() == pytest.approx([0.1, 0.05, 0.025, 0.0])
    assert float(model.weight.detach()) == pytest.approx(1 - 0.175)


@pytest.mark.parametrize(("clip", "moved"), [(None, 5.0), (0.25, 0.025)])
def test_gradients_are_clipped(clip: float | None, moved: float) -> None:
    model = Scalar(lambda x: 50 * x, weight=0.0)
    plan = scalar_plan(model, clip_grad=clip, epochs=1)
    fit(model, Given([1, 1]), plan, NullTracker())
    assert -float(model.weight.detach()) == pytest.approx(moved)


def test_after_step_and_gauges_are_called() -> None:
    class Watching(Scalar):
        def __init__(self) -> None:
            super().__init__(lambda x: x)
            self.progress: list[float] = []

        def after_step(self, progress: float) -> None:
            self.progress.append(progress)

        def gauges(self) -> dict[str, Tensor]:
            return {"seen": torch.tensor(float(len(self.progress)))}

    model = Watching()
    curve = fit(model, Given([1, 1, 1, 1]), scalar_plan(model, log_every=2), NullTracker())
    assert model.progress == [0.25, 0.5, 0.75, 1.0]
    assert curve["seen"].tolist() == [2, 4]


def test_the_model_is_put_into_training_mode() -> None:
    method = make_method(MAE).eval()
    fit(method, make_loader(method), make_plan(method), NullTracker())
    assert method.training


def test_going_on_in_another_precision_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    method, keeper = make_method(MAE), Keeper(tmp_path, {})
    fit(method, make_loader(method), make_plan(method), NullTracker(), keeper)
    for precision in ("fp32", "bf16"):
        caplog.clear()
        plan = make_plan(method, machine=Machine(torch.device("cpu"), precision))
        fit(method, make_loader(method), plan, NullTracker(), keeper)
        told = "launch.precision=bf16 changes how this training rounds" in caplog.text
        assert told == (precision == "bf16")


def test_a_buffer_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    method, keeper = make_method(MAE), Keeper(tmp_path, {})
    method.register_buffer("mean", torch.tensor([1.0, float("nan")]))
    with pytest.raises(NonFiniteLoss, match="mean became NaN"):
        fit(method, make_loader(method), make_plan(method), NullTracker(), keeper)
    assert not keeper.path.exists()
