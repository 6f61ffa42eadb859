"""How many boxes a second each heat map gives, beside the plain forward of the same encoder."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from contramask.boxes.encoder_maps import ENCODER_MAPS, EncoderMaps, MapChoice, find_decoder
from contramask.boxes.heatmaps import PRODUCERS, Producer
from contramask.boxes.rules import RuleConfig, find_boxes
from contramask.data.store import Store
from contramask.data.views import whole_images
from contramask.models.bundle import EncoderBundle

_GRID = 16
_REPEATS = 2  # the faster counts: whatever else the machine does only ever slows one down


def measure_speed(store: Store, encoder: Path | None, count: int = 128) -> pd.DataFrame:
    """Images a second, from pixels in memory to boxes, over the first `count` train images.

    Columns: map, images_per_s, of_forward (share of the row `forward`, one plain run of the encoder
    over each image in batches of the same size). A map runs the encoder over the image and over
    its mirror image, so half of the forward's rate is the most it can reach.
    """
    split = store["train"]
    images = split.__getitems__(np.arange(min(count, len(split))))
    tasks: dict[str, Callable[[], None]] = {}
    if encoder is not None:
        bundle = EncoderBundle.read(encoder)
        decoder = find_decoder(encoder, bundle)
        for name in ENCODER_MAPS if decoder else ENCODER_MAPS[:-1]:
            maps = EncoderMaps(bundle, [MapChoice(name)], decoder)
            tasks.setdefault("forward", partial(_forward, maps, images))
            tasks[name] = partial(_encoder_boxes, maps, images)
    for kind, producer in PRODUCERS.items():
        tasks[kind] = partial(_classical_boxes, producer, images)
    rates = {name: len(images) / seconds for name, seconds in _fastest(tasks).items()}
    table = pd.DataFrame({"map": list(rates), "images_per_s": list(rates.values())})
    return table.assign(of_forward=table["images_per_s"] / rates.get("forward", np.nan))


def _classical_boxes(producer: Producer, images: np.ndarray) -> None:
    find_boxes(producer(images, _GRID), RuleConfig())


def _encoder_boxes(maps: EncoderMaps, images: np.ndarray) -> None:
    find_boxes(maps(images, _GRID)[0], RuleConfig())


def _forward(maps: EncoderMaps, images: np.ndarray) -> None:
    for batch in maps.batches(images):
        view = (whole_images(batch, maps.encoder.image_size) - maps.mean) / maps.std
        with torch.inference_mode(), maps.autocast():
            maps.encoder.forward_tokens(view).cpu()


def _fastest(tasks: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Seconds of each task's faster run; the tasks take turns, so that all meet the same load."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(_REPEATS + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - started)
    return {name: min(each[1:]) for name, each in times.items()}  # the first one warms up
