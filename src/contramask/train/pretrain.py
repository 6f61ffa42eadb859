"""Pre-training: a store of images in, an encoder and everything the report shows of it out."""

import time
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from contramask.boxes.box_set import BoxSet
from contramask.data.augment import Alignment, check_transforms
from contramask.data.loader import ImageLoader
from contramask.data.ring import Recipe
from contramask.data.ring_loader import RingLoader
from contramask.data.store import Store
from contramask.data.transforms import TransformsConfig
from contramask.data.views import ViewConfig, ViewMaker
from contramask.methods import MethodConfig, build_method, encoder_for
from contramask.methods.base import Method
from contramask.methods.cmae import CMAEConfig
from contramask.models.bundle import EncoderBundle, make_bundle
from contramask.models.encoder import EncoderConfig
from contramask.models.tokenizer_bundle import TokenizerBundle
from contramask.results import RunInfo, StageOutput, result_row
from contramask.tracker import Tracker
from contramask.train.box_refresh import RefreshConfig, RefreshedBoxes
from contramask.train.checkpoint import Keeper
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine, prepare
from contramask.train.loop import TrainPlan, fit
from contramask.train.optim import Exempt, adamw, decay_groups
from contramask.train.pictures import reconstructions, view_preview
from contramask.train.plan import count_parameters, duration, measure_step, print_plan
from contramask.train.schedule import scaled_lr, warmup_cosine
from contramask.typed import STRICT, to_plain

Beta = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class PretrainConfig:
    """One pre-training; defaults: MAE's optimiser (2111.06377, Table 8) and the demo's sizes."""

    method: MethodConfig = field(default_factory=CMAEConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    image_size: int | None = Field(default=None, ge=8)  # side of the views in px; None: the store's
    epochs: int = Field(default=18, ge=1)
    batch_size: int = Field(default=128, ge=2)
    base_lr: float = Field(default=1.5e-4, gt=0)  # per 256 images
    warmup_epochs: float = Field(default=2, ge=0)
    min_lr_factor: float = Field(default=0, ge=0, le=1)  # of the peak rate, where the cosine ends
    weight_decay: float = Field(default=0.05, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    exempt: Exempt = "one_dim"  # which parameters weight decay spares
    clip_grad: float | None = Field(default=None, gt=0)
    log_every: int = Field(default=20, ge=1)  # steps
    save_minutes: float = Field(default=10, ge=0)  # between running checkpoints
    box_refresh: RefreshConfig | None = None  # boxes made anew while training; None: never

    @model_validator(mode="after")
    def _has_boxes_to_refresh(self) -> "PretrainConfig":
        if self.box_refresh is not None and not self.views.needs_boxes:
            raise ValueError(
                f"box_refresh makes boxes anew, and views.crop {self.views.crop} uses none; set"
                " views.crop to boxes or inside_boxes, or leave box_refresh out"
            )
        return self


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
    """Train one encoder with one method.

    `work` holds the running checkpoint, from which an interrupted call continues. Raises
    `ValueError` if configuration, tokenizer and data do not fit together, `ResumeRefused` if
    `work` holds another run's checkpoint, `NonFiniteLoss` if training blows up.
    """
    started = time.perf_counter()
    machine = pick_machine(launch)
    method = _build(store, config, tokenizer, run.seed)
    prepare(method, machine)
    loader, views = _loader(store, boxes, config, run.seed, machine, launch.worker_count)
    planned = _plan_facts(store, config, method, loader, machine)
    print_plan(f"pre-training {run.experiment}", planned)
    preview = view_preview(loader, views)
    keeper = Keeper(work, _fingerprint(store, boxes, config, method, run))
    plan = _train_plan(config, method, loader, machine, run.seed)
    source = _source(loader, store, boxes, config, run, method, work)
    curve = fit(method, source, plan, tracker, keeper)
    arrays = preview | reconstructions(method, store, views, machine)
    method.cpu()
    bundle = make_bundle(method.encoder, run, method.label, method.branch, store.manifest)
    facts = {
        "stage": "pretrain",
        "method": method.label,
        "plan": planned,
        "config": to_plain(config),
        "ingredients": method.ingredients,
        "box_refreshes": source.history() if isinstance(source, RefreshedBoxes) else [],
        "machine": machine_name(),
        "seconds": round(_training_seconds(curve, config.batch_size), 1),
        "seconds_total": round(time.perf_counter() - started, 1),
    }
    output = StageOutput(_rows(bundle, curve, facts), {"curve": curve}, arrays, facts)
    keeper.done()
    return PretrainResult(bundle, output)


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
    )


def _training_seconds(curve: pd.DataFrame, batch_size: int) -> float:
    """Seconds of all steps, also of those before an interruption, from the curve's speeds."""
    steps = curve["step"].diff().fillna(curve["step"])
    return float((steps * batch_size / curve["images_per_s"]).sum())


def _build(
    store: Store, config: PretrainConfig, tokenizer: TokenizerBundle | None, seed: int
) -> Method:
    torch.manual_seed(seed)
    size = _view_size(store, config)
    encoder = encoder_for(config.method, config.encoder, size, store.manifest["channels"])
    method = build_method(config.method, encoder)
    method.attach(store.manifest, tokenizer)
    return method


def _view_size(store: Store, config: PretrainConfig) -> tuple[int, int]:
    if config.image_size is not None:
        return (config.image_size, config.image_size)
    rows, cols = store.manifest["image_size"]
    return (rows, cols)


def _loader(
    store: Store,
    boxes: BoxSet | None,
    config: PretrainConfig,
    seed: int,
    machine: Machine,
    workers: int,
) -> tuple[ImageLoader, ViewMaker]:
    manifest = store.manifest
    size, mode = _view_size(store, config), config.method.view_mode
    views = ViewMaker(config.views, mode, size, manifest["mean"], manifest["std"])
    images, device = store["train"], machine.device
    if config.views.transforms is not None:
        recipe = _recipe(store, config, config.views.transforms)
        return RingLoader(recipe, views.ready, seed, device, workers), views
    array = _box_array(boxes, store) if config.views.needs_boxes else None
    return ImageLoader(images, views, config.batch_size, seed, device, array), views


def _recipe(store: Store, config: PretrainConfig, transforms: TransformsConfig) -> Recipe:
    """The user's transforms on the train images; refused here if they cannot give views."""
    channels, (rows, cols) = store.manifest["channels"], store.manifest["image_size"]
    mode = config.method.view_mode
    views = 1 if mode == "single" else 2
    shape = (views, config.batch_size, *_view_size(store, config), channels)
    still: Alignment = "same_place" if mode in ("weak_strong", "same_view") else "free"
    check_transforms(transforms, views, still, (rows, cols, channels), shape[2:])
    return Recipe(store["train"], transforms, shape)


def _source(
    loader: ImageLoader,
    store: Store,
    boxes: BoxSet | None,
    config: PretrainConfig,
    run: RunInfo,
    method: Method,
    work: Path,
) -> ImageLoader | RefreshedBoxes:
    """The loader, or one that makes its boxes anew from the encoder."""
    if config.box_refresh is None or boxes is None:
        return loader

    def bundle() -> EncoderBundle:
        return make_bundle(method.encoder, run, method.label, method.branch, store.manifest)

    return RefreshedBoxes(loader, store, boxes, config.box_refresh, work / "boxes", bundle)


def _box_array(boxes: BoxSet | None, store: Store) -> np.ndarray:
    """The train images' boxes (N, 4) in store order; a refused box set does as it was told."""
    if boxes is None:
        raise ValueError("pretrain.views.crop asks for boxes, but no box set was made")
    if boxes.manifest["data_hash"] != store.data_hash:
        raise ValueError(
            f"the box set was made from other images (data {boxes.manifest['data_hash']}, now "
            f"{store.data_hash}); run crop_boxes again"
        )
    return boxes.training_boxes()


def _plan_facts(
    store: Store, config: PretrainConfig, method: Method, loader: ImageLoader, machine: Machine
) -> dict[str, Any]:
    flops, seconds = measure_step(method, next(loader.epoch(0)), machine)
    steps = loader.steps_per_epoch * config.epochs
    return {
        "method": method.label,
        "images": len(store["train"]),
        "view size": "x".join(str(side) for side in _view_size(store, config)),
        "epochs": config.epochs,
        "steps": steps,
        "batch size": config.batch_size,
        "lr after scaling": scaled_lr(config.base_lr, config.batch_size),
        "parameters trained (M)": round(count_parameters(method) / 1e6, 2),
        "parameters of the encoder (M)": round(
            sum(p.numel() for p in method.encoder.parameters()) / 1e6, 2
        ),
        "GFLOP per image": round(flops / 1e9, 4),
        "device": f"{machine.device}, {machine.precision}",
        "estimated time": duration(steps * seconds),
    }


def _fingerprint(
    store: Store, boxes: BoxSet | None, config: PretrainConfig, method: Method, run: RunInfo
) -> dict[str, Any]:
    plain = to_plain(config)
    for free in ("log_every", "save_minutes"):  # change what is written, not what is learnt
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
