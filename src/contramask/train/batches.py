"""The batches of a pre-training: from the store, by built-in views or the user's own transforms."""

import logging
from pathlib import Path

import numpy as np

from contramask.boxes.box_set import BoxSet
from contramask.data.augment import Alignment, check_transforms
from contramask.data.jpeg import JpegImages
from contramask.data.jpeg_loader import JpegLoader
from contramask.data.loader import ImageLoader, check_share
from contramask.data.resident import placed
from contramask.data.ring import Recipe
from contramask.data.ring_loader import RingLoader
from contramask.data.store import Store
from contramask.data.transforms import TransformsConfig
from contramask.data.views import ViewMaker
from contramask.methods.base import Method
from contramask.models.bundle import EncoderBundle, make_bundle
from contramask.results import RunInfo
from contramask.train.box_refresh import RefreshedBoxes
from contramask.train.device import Machine
from contramask.train.pretrain_config import PretrainConfig
from contramask.train.world import current_world

log = logging.getLogger(__name__)


def view_size(store: Store, config: PretrainConfig) -> tuple[int, int]:
    """Rows and columns of what the network sees, px."""
    if config.image_size is not None:
        return (config.image_size, config.image_size)
    rows, cols = store.manifest["image_size"]
    return (rows, cols)


def make_loader(
    store: Store,
    boxes: BoxSet | None,
    config: PretrainConfig,
    seed: int,
    machine: Machine,
    workers: int,
) -> tuple[ImageLoader, ViewMaker]:
    """This process's share of every batch, and what makes its views.

    Raises `ValueError` if boxes, transforms or batch size do not fit data, method or processes.
    """
    manifest = store.manifest
    mean, std, mode = manifest["mean"], manifest["std"], config.method.view_mode
    views = ViewMaker(config.views, mode, view_size(store, config), mean, std)
    images, device, world = store["train"], machine.device, current_world()
    share = (world.rank, world.size)
    if config.views.transforms is not None:
        log.info("views.transforms make the views: views.crop_scale, flip and colour are not used")
        recipe = _recipe(store, config, config.views.transforms, world.size)
        return RingLoader(recipe, views.ready, seed, device, workers, share), views
    array, size = box_array(boxes, store) if config.views.needs_boxes else None, config.batch_size
    kept = placed(images, device, machine.resident)
    if kept is images and isinstance(images.images, JpegImages):
        loader = JpegLoader(images, views, size, seed, device, share, workers)
        loader.set_boxes(array)
        return loader, views
    return ImageLoader(kept, views, size, seed, device, array, share), views


def _recipe(
    store: Store, config: PretrainConfig, transforms: TransformsConfig, processes: int
) -> Recipe:
    """The user's transforms on the train images; refused here if they cannot give views."""
    check_share(config.batch_size, processes)
    channels, (rows, cols) = store.manifest["channels"], store.manifest["image_size"]
    mode = config.method.view_mode
    views = 1 if mode == "single" else 2
    shape = (views, config.batch_size // processes, *view_size(store, config), channels)
    still: Alignment = "same_place" if mode in ("weak_strong", "same_view") else "free"
    check_transforms(transforms, views, still, (rows, cols, channels), shape[2:])
    return Recipe(store["train"], transforms, shape)


def with_refresh(
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


def box_array(boxes: BoxSet | None, store: Store) -> np.ndarray:
    """The train images' boxes (N, 4) in store order; a refused box set does as it was told."""
    if boxes is None:
        raise ValueError("pretrain.views.crop asks for boxes, but no box set was made")
    if boxes.manifest["data_hash"] != store.data_hash:
        raise ValueError(
            f"the box set was made from other images (data {boxes.manifest['data_hash']}, now "
            f"{store.data_hash}); run crop_boxes again"
        )
    return boxes.training_boxes()
