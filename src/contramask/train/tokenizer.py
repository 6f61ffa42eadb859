"""Training of the image tokenizer: a store of images in, tokens worth predicting out."""

import logging
import time
from dataclasses import asdict, field
from dataclasses import dataclass as plain_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.data.colour import ColourConfig, alter_colours
from contramask.data.config import ScaleRange, Share
from contramask.data.loader import ImageLoader, Views
from contramask.data.resident import placed
from contramask.data.store import Store
from contramask.data.views import ViewConfig, ViewMaker
from contramask.failures import explained
from contramask.methods import check_data
from contramask.methods.base import Batch
from contramask.models.codebook import CodebookConfig, codebook_size
from contramask.models.encoder import Size
from contramask.models.token_health import TokenGates
from contramask.models.tokenizer import TokenizerNetConfig, VQTokenizer
from contramask.models.tokenizer_bundle import TRAIN_TFLOP, TokenizerBundle
from contramask.results import RunInfo, StageOutput, made_with
from contramask.tracker import Tracker
from contramask.train.checkpoint import Keeper
from contramask.train.device import LaunchConfig, Machine, machine_name, pick_machine, prepare
from contramask.train.loop import TrainPlan, fit
from contramask.train.optim import adamw, decay_groups
from contramask.train.parts import largest_step
from contramask.train.plan import (
    count_parameters,
    duration,
    measure_step,
    print_plan,
    training_tflop,
)
from contramask.train.pretrain_config import PretrainConfig
from contramask.train.schedule import warmup_cosine
from contramask.train.token_audit import audit, code_table, health_rows, judge
from contramask.train.tokenizer_step import TokenizerTraining
from contramask.typed import STRICT, to_plain

log = logging.getLogger(__name__)

_COLOUR_STREAM = 48  # of random numbers, apart from those of the views
_START_TOKENS_PER_CODE = 20  # from which k-means places the codes
Beta = Annotated[float, Field(ge=0, lt=1)]


def _mild() -> ColourConfig:
    return ColourConfig(
        brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, jitter=0.5, grey=0.0, blur=0.0
    )


@dataclass(frozen=True, config=STRICT)
class TokenizerConfig:
    """One tokenizer; patch size and image size are those of the pre-training it is made for."""

    net: TokenizerNetConfig = field(default_factory=TokenizerNetConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    commitment_weight: float = Field(default=0.25, ge=0)  # beta
    epochs: int = Field(default=20, ge=1)
    batch_size: int = Field(default=256, ge=2)
    lr: float = Field(default=3e-4, gt=0)  # not scaled by the batch size
    warmup_epochs: float = Field(default=0.2, ge=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    clip_grad: float | None = Field(default=1.0, gt=0)
    crop_scale: ScaleRange = (0.5, 1.0)
    flip: Share = 0.5
    colour: ColourConfig = field(default_factory=_mild)  # mild: tokens should survive light changes
    gates: TokenGates = field(default_factory=TokenGates)
    #: What a pre-training gets from a refused tokenizer: an error, or its tokens all the same.
    on_alarm: Literal["stop", "keep"] = "stop"
    log_every: int = Field(default=20, ge=1)  # steps
    save_minutes: float = Field(default=10, ge=0)  # between running checkpoints


@plain_dataclass(frozen=True)
class TokenizerResult:
    """The tokenizer, or why none is needed, and what there is to see of it."""

    bundle: TokenizerBundle
    output: StageOutput


def train_tokenizer(
    store: Store,
    config: TokenizerConfig,
    pretrain: PretrainConfig,
    run: RunInfo,
    launch: LaunchConfig,
    work: Path,
    tracker: Tracker,
) -> TokenizerResult:
    """Train one tokenizer for a pre-training whose method asks for tokens, and judge it.

    A tokenizer that fails its gates is returned with `accepted` False and logged as a warning.
    Other methods get a skipped result. `work` holds the running checkpoint, to be
    forgotten (`leftovers.forget`) once the result is saved. Raises `ValueError` if
    configuration and data do not fit together, `ResumeRefused`, and `StageFailure` if the training
    blows up or disk or memory do not suffice.
    """
    if not getattr(pretrain.method, "needs_tokenizer", False):
        return _skipped(pretrain.method.name)
    check_data(pretrain.method, store.manifest)  # not only after this training
    started = time.perf_counter()
    machine = pick_machine(launch)
    size = _image_size(store, pretrain)
    training, loader = _prepared(store, config, pretrain, run.seed, machine)
    origin = {"data": store.manifest["name"], "data_hash": store.data_hash}
    origin |= {"image_size": list(size), "seed": run.seed}
    fingerprint = _fingerprint(config, pretrain.encoder.patch_size, origin)
    keeper = Keeper(work, fingerprint, launch.keep_last, launch.milestones)

    def trained() -> tuple[dict[str, Any], pd.DataFrame]:
        planned = _plan_facts(store, size, config, training, loader, machine)
        print_plan(f"tokenizer for {run.experiment}", planned)
        plan = _train_plan(config, training, loader, machine, run.seed)
        return planned, fit(training, loader, plan, tracker, keeper)

    advice = partial(largest_step, training, loader, machine, "tokenizer.batch_size")
    planned, curve = explained(trained, work, advice)
    tokenizer = training.tokenizer.requires_grad_(False).eval()
    found = audit(tokenizer, store, size, machine.device)
    made = {**origin, TRAIN_TFLOP: training_tflop(planned)}
    bundle = judge(tokenizer.cpu(), found, config.gates, config.on_alarm, made)
    facts = {
        "stage": "tokenizer",
        "plan": planned,
        "config": to_plain(config),
        "machine": machine_name(machine.device),
        **made_with(),
        "seconds": round(time.perf_counter() - started, 1),
        "tokenizer_id": bundle.tokenizer_id,
        **{k: bundle.manifest[k] for k in ("health", "accepted", "reasons", "warnings")},
    }
    rows = health_rows(found, _user(store, pretrain, run))
    tables = {"curve": curve, "codes": code_table(found.health)}
    return TokenizerResult(bundle, StageOutput(rows, tables, found.arrays, facts))


def _skipped(method: str) -> TokenizerResult:
    reason = f"{method}, as it is configured, learns without image tokens"
    log.info("no tokenizer is trained: %s", reason)
    output = StageOutput.skipped("tokenizer", reason)
    return TokenizerResult(TokenizerBundle.skipped(reason), output)


def _image_size(store: Store, pretrain: PretrainConfig) -> Size:
    rows, cols = store.manifest["image_size"]
    side = pretrain.image_size
    return (rows, cols) if side is None else (side, side)


def _prepared(
    store: Store, config: TokenizerConfig, pretrain: PretrainConfig, seed: int, machine: Machine
) -> tuple[TokenizerTraining, ImageLoader]:
    """A tokenizer whose codes lie where the untrained network puts the images, and its batches."""
    torch.manual_seed(seed)
    split = store["train"]
    tokenizer = VQTokenizer(
        pretrain.encoder.patch_size,
        store.manifest["channels"],
        config.codebook.size or codebook_size(len(split)),
        config.net,
        config.codebook,
    )
    training = TokenizerTraining(tokenizer, config.commitment_weight)
    prepare(training.to(memory_format=torch.channels_last), machine)
    views = _views(config, _image_size(store, pretrain), store.manifest["channels"])
    images = placed(split, machine.device, machine.resident)
    loader = ImageLoader(images, views, config.batch_size, seed, machine.device)
    tokenizer.codebook.start(_first_vectors(tokenizer, loader), seed)
    return training, loader


def _views(config: TokenizerConfig, size: Size, channels: int) -> Views:
    """Crops, flips and mild colour changes, in [0, 1]."""
    crop = ViewConfig(crop_scale=config.crop_scale, flip=config.flip)
    crops = ViewMaker(crop, "single", size, [0.0] * channels, [1.0] * channels)

    def views(images: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        pixels = crops(images, key, boxes)["view"] * 255
        return {"view": alter_colours(pixels, config.colour, key, _COLOUR_STREAM, size) / 255}

    return views


@torch.no_grad()
def _first_vectors(tokenizer: VQTokenizer, loader: ImageLoader) -> Tensor:
    """Vectors (N, d) of the first batches, at least twenty for each code if there are so many."""
    found: list[Tensor] = []
    for batch in loader.epoch(0):
        found.append(tokenizer.features(tokenizer.scaled(batch["view"])).flatten(0, 1))
        if sum(map(len, found)) >= _START_TOKENS_PER_CODE * tokenizer.vocab_size:
            break
    return torch.cat(found)


def _train_plan(
    config: TokenizerConfig,
    training: TokenizerTraining,
    loader: ImageLoader,
    machine: Machine,
    seed: int,
) -> TrainPlan:
    total = loader.steps_per_epoch * config.epochs
    warmup = int(config.warmup_epochs * loader.steps_per_epoch)
    groups = decay_groups(training, config.weight_decay, "one_dim")
    return TrainPlan(
        name="tokenizer",
        epochs=config.epochs,
        optimizer=adamw(groups, config.lr, config.betas),
        factor_at=lambda step: warmup_cosine(step, total, warmup),
        machine=machine,
        seed=seed,
        clip_grad=config.clip_grad,
        log_every=config.log_every,
        save_minutes=config.save_minutes,
    )


def _plan_facts(
    store: Store,
    size: Size,
    config: TokenizerConfig,
    training: TokenizerTraining,
    loader: ImageLoader,
    machine: Machine,
) -> dict[str, Any]:
    flops, seconds = measure_step(training, next(loader.epoch(0)), machine)
    tokenizer, steps = training.tokenizer, loader.steps_per_epoch * config.epochs
    patch = tokenizer.patch_size
    return {
        "images": len(store["train"]),
        "images kept": loader.kept,
        "tokens an image": f"{size[0] // patch}x{size[1] // patch}",
        "pixels a token reads": f"{tokenizer.stride}x{tokenizer.stride}",
        "codes": tokenizer.vocab_size,
        "epochs": config.epochs,
        "steps": steps,
        "batch size": config.batch_size,
        "lr": config.lr,
        "parameters trained (M)": round(count_parameters(training) / 1e6, 2),
        "GFLOP per image": round(flops / 1e9, 4),
        "device": f"{machine.device}, {machine.precision}",
        "estimated time": duration(steps * seconds),
    }


def _fingerprint(
    config: TokenizerConfig, patch_size: int, origin: dict[str, Any]
) -> dict[str, Any]:
    plain = to_plain(config)
    for free in ("log_every", "save_minutes", "gates", "on_alarm"):  # do not change what is learnt
        plain.pop(free)
    return {"tokenizer": plain, "patch_size": patch_size, **origin}


def _user(store: Store, pretrain: PretrainConfig, run: RunInfo) -> dict[str, Any]:
    """The experiment whose method is going to use the tokens, as result rows name it."""
    width, depth, heads = pretrain.encoder.sizes
    arch: dict[str, Any] = {"embed_dim": width, "depth": depth, "num_heads": heads}
    arch |= {"patch_size": pretrain.encoder.patch_size, "config": asdict(pretrain.encoder)}
    return {
        "experiment": run.experiment,
        "method": pretrain.method.name,
        "arch": {**arch, "image_size": list(_image_size(store, pretrain))},
        "data": store.manifest["name"],
        "seed": run.seed,
        "config_hash": run.config_hash,
    }
