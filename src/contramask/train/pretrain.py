"""Pre-training: a store of images in, an encoder and everything the report shows of it out."""

import time
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from contramask.boxes.box_set import BoxSet
from contramask.data.loader import ImageLoader, check_filled, check_share
from contramask.data.store import Store
from contramask.failures import explained
from contramask.methods import build_method, encoder_for
from contramask.methods.base import Method
from contramask.models.bundle import EncoderBundle, make_bundle
from contramask.models.tokenizer_bundle import TRAIN_TFLOP, TokenizerBundle
from contramask.results import RunInfo, StageOutput, made_with, result_row
from contramask.tracker import Tracker
from contramask.train.batches import box_array, make_loader, view_size, with_refresh
from contramask.train.box_refresh import RefreshedBoxes
from contramask.train.checkpoint import Keeper
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine, prepare
from contramask.train.loop import TrainPlan, fit
from contramask.train.optim import adamw, decay_groups
from contramask.train.parts import check_parts, pass_note, what_fits
from contramask.train.pictures import VIEWS, reconstructions, show_views, view_preview
from contramask.train.plan import (
    count_parameters,
    duration,
    measure_step,
    print_plan,
    training_tflop,
)
from contramask.train.pretrain_config import FREE, PretrainConfig
from contramask.train.schedule import scaled_lr, warmup_cosine
from contramask.train.sharding import check_sharding, sharded, whole
from contramask.train.world import connect, current_world
from contramask.typed import to_plain

Beta = Annotated[float, Field(ge=0, lt=1)]


@plain_dataclass(frozen=True)
class PretrainResult:
    """The encoder people take away, and what the report is drawn from."""

    bundle: EncoderBundle
    output: StageOutput


def pretrain(
    store: Store,
    boxes: BoxSet | None,
    config: PretrainConfig,
    run: RunInfo,
    launch: LaunchConfig,
    work: Path,
    tracker: Tracker,
    tokenizer: TokenizerBundle | None = None,
) -> PretrainResult:
    """Train one encoder with one method; in every process of a `world.joined`, if there is one.

    `work` holds the running checkpoint, from which an interrupted call continues, and still after
    the last step: call `leftovers.forget(work)` once the result is saved. Raises
    `ValueError` if configuration, tokenizer and data do not fit together, `ResumeRefused` if
    `work` holds another run's checkpoint, `NonFiniteLoss` if training blows up, and other
    `StageFailure` if disk or memory do not suffice.
    """
    started = time.perf_counter()
    machine, world = pick_machine(launch), current_world()
    method = _build(store, config, tokenizer, run.seed)
    connect(method, world)
    loader, views = make_loader(store, boxes, config, run.seed, machine, launch.worker_count)
    source = with_refresh(loader, store, boxes, config, run, method, work)
    _check_method(method, config, launch, world.size)
    shards = _in_shards(launch, world.size)
    fingerprint = _fingerprint(store, boxes, config, method, run)
    keeper = Keeper(work, fingerprint, launch.keep_last, launch.milestones)

    def training() -> tuple[dict[str, Any], dict[str, np.ndarray], pd.DataFrame]:
        prepare(method, machine)
        planned = _plan_facts(store, config, method, loader, machine)
        preview = view_preview(loader, views)
        if world.is_main:
            print_plan(f"pre-training {run.experiment}", planned)
            show_views(preview, work, tracker)
        trained = sharded(method, world, machine.device) if shards else method
        plan = _train_plan(config, trained, loader, machine, run.seed)
        plan = replace(plan, images_at=lambda step: _image_ids(store, loader, step))
        curve = fit(trained, source, plan, tracker, keeper)
        if shards:
            method.load_state_dict(whole(trained.state_dict()))
            prepare(method, machine)
        return planned, preview, curve

    fitting = partial(what_fits, method, loader, machine, config.accumulate)
    planned, preview, curve = explained(training, work, fitting)
    arrays = preview | reconstructions(method, store, views, machine)
    method.cpu()
    bundle = make_bundle(method.encoder, run, method.label, method.branch, store.manifest)
    spent = _spent(planned, method, tokenizer)
    bundle.manifest.update(spent)
    facts = spent | _facts(config, method, planned, curve, time.perf_counter() - started)
    facts["machine"] = machine_name(machine.device, world.size)
    facts["box_refreshes"] = source.history() if isinstance(source, RefreshedBoxes) else []
    output = StageOutput(_rows(bundle, curve, facts), {"curve": curve}, arrays, facts)
    (work / VIEWS).unlink(missing_ok=True)  # they stay in the output
    return PretrainResult(bundle, output)


def check(
    store: Store,
    boxes: BoxSet | None,
    config: PretrainConfig,
    tokenizer: TokenizerBundle | None,
    launch: LaunchConfig,
    processes: int,
) -> None:
    """Raise the `ValueError` that `pretrain` would in so many processes, before they are started.

    Reads no image; the network is built once and thrown away.
    """
    check_filled(config.batch_size, len(store["train"]))
    check_share(config.batch_size, processes)
    if config.views.needs_boxes:
        box_array(boxes, store)
    _check_method(_build(store, config, tokenizer, seed=0), config, launch, processes)


def _check_method(
    method: Method, config: PretrainConfig, launch: LaunchConfig, processes: int
) -> None:
    check_parts(method, config.batch_size, processes, config.accumulate)
    if _in_shards(launch, processes):
        check_sharding(method, config.accumulate, config.box_refresh is not None)


def _in_shards(launch: LaunchConfig, processes: int) -> bool:
    return launch.sharding == "fsdp2" and processes > 1


def _spent(
    planned: dict[str, Any], method: Method, tokenizer: TokenizerBundle | None
) -> dict[str, float | None]:
    """What the whole training cost in 10^12 FLOPs, its tokenizer's training included.

    tokenizer_tflop is None, and left out of the sum, where the tokenizer does not state its cost.
    """
    tokens: float | None = 0.0
    if "tokenizer" in method.ingredients:
        tokens = None if tokenizer is None else tokenizer.manifest.get(TRAIN_TFLOP)
    own = training_tflop(planned)
    return {"pretrain_tflop": round(own + (tokens or 0.0), 6), "tokenizer_tflop": tokens}


def _facts(
    config: PretrainConfig,
    method: Method,
    planned: dict[str, Any],
    curve: pd.DataFrame,
    seconds: float,
) -> dict[str, Any]:
    return {
        "stage": "pretrain",
        "method": method.label,
        "plan": planned,
        "config": to_plain(config),
        "ingredients": method.ingredients,
        **made_with(),
        "seconds": round(_training_seconds(curve, config.batch_size), 1),
        "seconds_total": round(seconds, 1),
    }


def _train_plan(
    config: PretrainConfig, method: Method, loader: ImageLoader, machine: Machine, seed: int
) -> TrainPlan:
    groups = decay_groups(method, config.weight_decay, config.exempt)
    total = loader.steps_per_epoch * config.epochs
    warmup = int(config.warmup_epochs * loader.steps_per_epoch)
    return TrainPlan(
        name="pretrain",
        epochs=config.epochs,
        optimizer=adamw(groups, scaled_lr(config.base_lr, config.batch_size), config.betas),
        factor_at=lambda step: warmup_cosine(step, total, warmup, config.min_lr_factor),
        machine=machine,
        seed=seed,
        clip_grad=config.clip_grad,
        log_every=config.log_every,
        save_minutes=config.save_minutes,
        accumulate=config.accumulate,
        skip_up_to=config.nonfinite.skip_up_to,
        steady=True,
    )


def _image_ids(store: Store, loader: ImageLoader, step: int) -> list[str]:
    ids = store["train"].ids
    return [ids[row] for row in loader.rows(step)]


def _training_seconds(curve: pd.DataFrame, batch_size: int) -> float:
    """Seconds of all steps, also of those before an interruption, from the curve's speeds."""
    steps = curve["step"].diff().fillna(curve["step"])
    return float((steps * batch_size / curve["images_per_s"]).sum())


def _build(
    store: Store, config: PretrainConfig, tokenizer: TokenizerBundle | None, seed: int
) -> Method:
    torch.manual_seed(seed)
    size = view_size(store, config)
    encoder = encoder_for(config.method, config.encoder, size, store.manifest["channels"])
    method = build_method(config.method, encoder)
    method.attach(store.manifest, tokenizer)
    return method


def _plan_facts(
    store: Store, config: PretrainConfig, method: Method, loader: ImageLoader, machine: Machine
) -> dict[str, Any]:
    batch = method.cut(next(loader.epoch(0)), config.accumulate)[0]
    flops, seconds = measure_step(method, batch, machine, config.accumulate)
    steps = loader.steps_per_epoch * config.epochs
    return {
        "method": method.label,
        "images": len(store["train"]),
        "images kept": loader.kept,
        "view size": "x".join(str(side) for side in view_size(store, config)),
        "epochs": config.epochs,
        "steps": steps,
        "batch size": config.batch_size,
        "images a pass": pass_note(method, loader, config.accumulate),
        "lr after scaling": scaled_lr(config.base_lr, config.batch_size),
        "parameters trained (M)": round(count_parameters(method) / 1e6, 2),
        "parameters of the encoder (M)": round(
            sum(p.numel() for p in method.encoder.parameters()) / 1e6, 2
        ),
        "GFLOP per image": round(flops / 1e9, 4),
        "device": f"{machine.device}, {machine.precision}",
        "estimated time": duration(steps * seconds * config.accumulate),
    }


def _fingerprint(
    store: Store, boxes: BoxSet | None, config: PretrainConfig, method: Method, run: RunInfo
) -> dict[str, Any]:
    plain = to_plain(config)
    for free in FREE:
        plain.pop(free)
    boxed = config.views.needs_boxes and boxes is not None
    return {
        "pretrain": plain,
        "seed": run.seed,
        "data_hash": store.manifest["data_hash"],
        "box_set": boxes.manifest["box_set_id"] if boxed and boxes is not None else None,
        **method.ingredients,
    }


def _rows(bundle: EncoderBundle, curve: pd.DataFrame, facts: dict[str, Any]) -> pd.DataFrame:
    last = curve.iloc[-1]
    values = {
        "loss": last["loss"],
        "images_per_s": curve["images_per_s"].median(),
        "seconds": facts["seconds"],
        "seconds_total": facts["seconds_total"],
        "gflop_per_image": facts["plan"]["GFLOP per image"],
        "parameters_m": facts["plan"]["parameters of the encoder (M)"],
    }
    return pd.DataFrame(
        [
            result_row(bundle.manifest, "train", "pretrain", "none", name, value)
            for name, value in values.items()
        ]
    )
