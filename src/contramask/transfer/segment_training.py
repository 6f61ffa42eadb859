"""Training a segmentation head: its batches of images with classes a pixel, and its loop."""

from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from contramask.data.loader import Batch, ImageLoader, Images, Subset, Views
from contramask.data.prefetch import sent, staged
from contramask.data.record import Split
from contramask.data.resident import placed
from contramask.data.store import Store
from contramask.failures import within_memory
from contramask.models.bundle import EncoderBundle
from contramask.progress import track
from contramask.tracker import Tracker
from contramask.train.device import Machine, prepare
from contramask.train.parts import largest_step
from contramask.transfer.dense import (
    TargetLoader,
    TuneConfig,
    chunks,
    enlarged,
    made_for,
    normalise,
    tunable,
    tune,
)
from contramask.transfer.features import Normalised
from contramask.transfer.jitter import (
    draw_placement,
    draw_window,
    place_classes,
    place_images,
    recolour,
)
from contramask.transfer.metric_names import metric_prefix
from contramask.transfer.running import Named, Work
from contramask.transfer.segment_config import Head, SegmentationConfig, TunedHead
from contramask.transfer.segmenters import (
    CachedFeatures,
    DPTSegmenter,
    FrozenEncoder,
    LinearSegmenter,
    UPerNetSegmenter,
    build_segmenter,
)
from contramask.transfer.windows import slide

#: Scores (B, K, h, w) of stored images uint8 (B, H, W, C).
Predict = Callable[[Tensor], Tensor]
#: Images a step when frozen features are computed.
FEATURE_BATCH = 128
#: Keys of the configuration that say nothing about the training of a head.
_OTHERS: dict[Head, tuple[str, ...]] = {
    "linear": ("upernet", "net", "dpt", "dpt_net", "jitter", "crop", "max_class_share"),
    "upernet": ("linear", "dpt", "dpt_net"),
    "dpt": ("linear", "upernet", "net"),
}


@plain_dataclass(frozen=True)
class SegmentationTask:
    """What all encoders and heads of one run share."""

    store: Store
    config: SegmentationConfig
    machine: Machine
    tracker: Tracker
    train: Subset
    val: Subset
    work: Work

    @property
    def num_classes(self) -> int:
        """K, the background's among them where the data has one."""
        return len(self.store.manifest["semantic_classes"])

    @property
    def shown_size(self) -> tuple[int, int]:
        """Rows and columns of the images that are read, whole or by windows."""
        split, scale = self.store["val"], self.config.upscale
        return round(split.height * scale), round(split.width * scale)


def train_linear(
    task: SegmentationTask, bundle: EncoderBundle
) -> tuple[Predict, str, pd.DataFrame]:
    """The linear head on the frozen encoder: what predicts, what it reads, and its curve."""
    config, seed = task.config.linear, bundle.manifest["seed"]
    encode = FrozenEncoder(_whole(task, bundle), task.machine)
    torch.manual_seed(seed)
    model = LinearSegmenter(bundle.encoder.embed_dim, task.num_classes).to(task.machine.device)
    source = _batches(task, config, seed, *_feature_images(task, encode))
    curve = _tuned(task, bundle, model, source, "linear")
    model.eval()
    return (lambda pixels: model.head(encode(pixels))), "last map, normed", curve


def _whole(task: SegmentationTask, bundle: EncoderBundle) -> EncoderBundle:
    """The encoder for whole images as they are shown."""
    split = task.store["val"]
    return enlarged(bundle, (split.height, split.width), task.config.upscale)


def _feature_images(task: SegmentationTask, encode: FrozenEncoder) -> tuple[Images, Views]:
    """Frozen features, computed once when they fit into memory, batch by batch when not."""
    if encode.megabytes(len(task.train)) > task.config.cache_megabytes:
        return task.train, lambda pixels, key, boxes: {"features": encode(pixels)}
    parts = chunks(len(task.train), FEATURE_BATCH)
    title = "features for the linear head"
    features = [
        encode(torch.from_numpy(task.train.__getitems__(part))).half().cpu().numpy()
        for part in track(parts, title, len(parts))
    ]
    cached = CachedFeatures(np.concatenate(features), task.train.labels)
    return cached, lambda features, key, boxes: {"features": features.float()}


def train_tuned(
    task: SegmentationTask, bundle: EncoderBundle, head: TunedHead
) -> tuple[Predict, str, pd.DataFrame]:
    """A head trained together with its encoder: what predicts, what it reads, and its curve."""
    config = task.config.upernet if head == "upernet" else task.config.dpt
    seed, machine, window = bundle.manifest["seed"], task.machine, task.config.crop
    torch.manual_seed(seed)
    # Resampled once, to what it reads: patches need not fill an image that is read by windows.
    made = made_for(bundle, window, "segmentation.crop") if window else _whole(task, bundle)
    trained = tunable(made.encoder, config.drop_path)
    model = build_segmenter(head, trained, task.num_classes, task.config)
    prepare(model, machine)
    inputs = Normalised(bundle, machine.device, task.shown_size)

    def views(pixels: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        return {"images": normalise(recolour(pixels, key, task.config.jitter), inputs)}

    source = _batches(task, config, seed, task.train, views)
    curve = _tuned(task, bundle, model, source, head)
    model.eval()

    def predict(pixels: Tensor) -> Tensor:
        images = normalise(pixels, inputs)
        if window is None:
            return model.scores(images)
        step = [max(round(side * task.config.stride), 1) for side in window]
        return slide(model.scores, images, window, (step[0], step[1]))

    return predict, "blocks " + ",".join(map(str, model.taps)), curve


def _tuned(
    task: SegmentationTask,
    bundle: EncoderBundle,
    model: LinearSegmenter | UPerNetSegmenter | DPTSegmenter,
    source: TargetLoader,
    head: Head,
) -> pd.DataFrame:
    """The curve of a head's training."""
    config, machine = getattr(task.config, head), task.machine
    name = metric_prefix(bundle.manifest, "segmentation", head)
    keeper = task.work.keeper(head, bundle, without=_OTHERS[head])
    named = Named(name, bundle.manifest["seed"], task.tracker, keeper)
    return within_memory(
        partial(tune, model, source, model.groups(config), config, machine, named),
        partial(largest_step, model, source, machine, f"segmentation.{head}.batch_size"),
    )


def _batches(
    task: SegmentationTask, config: TuneConfig, seed: int, images: Images, views: Views
) -> TargetLoader:
    """Batches of `views` with their pixel classes, in an order fixed by the seed."""
    size = min(config.batch_size, len(images))
    device, resident = task.machine.device, task.machine.resident
    loader = ImageLoader(placed(images, device, resident), views, size, seed, device)
    jitter, window = task.config.jitter, task.config.crop

    def add_classes(batch: Batch, rows: np.ndarray) -> Batch:
        semantic = semantic_of(task, "train", task.train.rows[rows])
        if "images" not in batch or (jitter.is_idle and window is None):
            return {**batch, "semantic": semantic}
        images = batch["images"]
        if window is None:
            placement = draw_placement(batch["key"], jitter)
        else:
            shown = (window[1] / images.shape[3], window[0] / images.shape[2])
            share = task.config.max_class_share
            placement = draw_window(batch["key"], jitter, semantic, shown, share)
        moved = place_images(images, placement, window, jitter.halvings)
        return {**batch, "images": moved, "semantic": place_classes(semantic, placement, window)}

    return TargetLoader(loader, add_classes)


def semantic_of(task: SegmentationTask, split: Split, rows: np.ndarray) -> Tensor:
    """Classes of the pixels of some images of a split, uint8 (B, H, W), on the device."""
    classes = task.store[split].semantic
    if classes is None:
        raise ValueError(f"the store's {split} split has no pixel classes")
    device = task.machine.device
    return sent(staged(np.array(classes[rows]), device), device)
