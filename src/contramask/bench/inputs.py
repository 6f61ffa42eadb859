"""`contramask bench --mode input`: our store and loader against the paths people come from.

All give the same thing, batches of normalised float32 random resized crops, from the same pictures.
Ours reads the packed store that the dataset stage makes once, and crops on the device or, where a
user brings albumentations, in a ring of processes; from a JPEG store, which takes a tenth of the
place, threads decode and crop. The official path opens and decodes a JPEG file
for every crop, as MAE's and CMAE's released code do.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

from contramask.bench.images import SamplePhotos
from contramask.bench.ours import MEAN, STD
from contramask.bench.packed import PackedImages
from contramask.bench.packed_jpeg import PackedJpeg
from contramask.bench.sizes import BenchConfig
from contramask.bench.summary import Ratio, Spread
from contramask.data.jpeg_loader import JpegLoader
from contramask.data.loader import ImageLoader
from contramask.data.ring import Recipe
from contramask.data.ring_loader import RingLoader
from contramask.data.transforms import TransformsConfig
from contramask.data.views import ViewConfig, ViewMaker
from contramask.progress import track

TIMED = 12  # batches of an epoch; before them each worker makes one, so that none has a lead
_SCALE = (0.2, 1.0)  # MAE's crops
_QUALITY = 90  # of the JPEG files

OURS = ("ours: views on the device", "ours: albumentations in a ring")
#: Not the fastest of ours: what pictures cost that memory cannot hold as they are.
JPEG_STORE = "ours: JPEG store, decoded by threads"

Epoch = Callable[[], Iterator[Tensor]]


@dataclass
class InputTimes:
    """One path: images a second by round, by the clock and by all processes' processor time."""

    name: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def run_inputs(config: BenchConfig, folder: Path) -> list[InputTimes]:
    """Time all paths in turns, an epoch a round; `folder` is for their files. Ours come first."""
    paths = input_paths(config, folder)
    times = {name: InputTimes(name) for name in paths}
    for _ in track(range(config.rounds), "epochs", config.rounds):
        for name, epoch in paths.items():
            wall, cpu = _time_epoch(epoch)
            images = TIMED * config.batch_size
            times[name].wall.append(images / wall)
            times[name].cpu.append(images / cpu)
    return list(times.values())


def input_ratios(times: Sequence[InputTimes]) -> dict[str, list[Ratio]]:
    """Each of ours against every path that is not, round by round."""
    others = [one for one in times if one.name not in OURS]
    return {
        ours.name: [
            Ratio(
                ours.name,
                other.name,
                _ratio(ours.wall, other.wall),
                _ratio(ours.cpu, other.cpu),
            )
            for other in others
        ]
        for ours in times
        if ours.name in OURS
    }


def input_record(times: list[InputTimes], config: BenchConfig) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "mode": "input",
        "images": {"count": image_count(config), "side_px": store_side(config)},
        "workers": worker_count(),
        "paths": [
            {
                "name": one.name,
                "images_per_s": asdict(Spread.of(one.wall)),
                "images_per_cpu_s": asdict(Spread.of(one.cpu)),
                "rounds": {"images_per_s": one.wall, "images_per_cpu_s": one.cpu},
            }
            for one in times
        ],
        "ratios": {
            name: [asdict(ratio) for ratio in ratios]
            for name, ratios in input_ratios(times).items()
        },
    }


def store_side(config: BenchConfig) -> int:
    """Side of the stored pictures: the view's if small, else with a margin (256 for 224)."""
    size = config.image_size
    return size if size <= 96 else round(size * 256 / 224)


def image_count(config: BenchConfig) -> int:
    """Pictures of one epoch."""
    return (worker_count() + TIMED) * config.batch_size


def worker_count() -> int:
    """Processes the peers' loaders may use: one a core."""
    return os.cpu_count() or 1


def input_paths(config: BenchConfig, folder: Path) -> dict[str, Epoch]:
    """The paths by name; pictures are written to `folder` as files and as a packed array."""
    photos = SamplePhotos(image_count(config), store_side(config))
    np.save(folder / "images.npy", photos.pixels)
    packed = PackedImages(folder / "images.npy")
    files = _write_files(photos.pixels, folder)
    return {
        OURS[0]: _ours(config, packed),
        OURS[1]: _ring(config, packed),
        JPEG_STORE: _jpeg(config, PackedJpeg(photos.pixels, folder / "jpeg")),
        "official: JPEG, PIL, DataLoader": _loader(config, _Official(files, config.image_size)),
        "same store, torchvision, DataLoader": _loader(
            config, _Plain(packed.pixels, config.image_size)
        ),
    }


def _ours(config: BenchConfig, packed: PackedImages) -> Epoch:
    size = (config.image_size, config.image_size)
    views = ViewMaker(ViewConfig(crop_scale=_SCALE), "single", size, MEAN, STD)
    loader = ImageLoader(packed, views, config.batch_size, 0, torch.device("cpu"))
    return lambda: (batch["view"] for batch in loader.epoch(0))


def _jpeg(config: BenchConfig, packed: PackedJpeg) -> Epoch:
    size = (config.image_size, config.image_size)
    views = ViewMaker(ViewConfig(crop_scale=_SCALE), "single", size, MEAN, STD)
    device = torch.device("cpu")
    loader = JpegLoader(packed, views, config.batch_size, 0, device, workers=worker_count())
    return lambda: (batch["view"] for batch in loader.epoch(0))


def _ring(config: BenchConfig, packed: PackedImages) -> Epoch:
    size = (config.image_size, config.image_size)
    crop = {"name": "RandomResizedCrop", "size": size, "scale": _SCALE}
    bicubic = {**crop, "interpolation": "INTER_CUBIC"}  # the official path's filter
    transforms = TransformsConfig(view=(bicubic, {"name": "HorizontalFlip"}))
    views = ViewMaker(ViewConfig(transforms=transforms), "single", size, MEAN, STD)
    recipe = Recipe(packed, transforms, (1, config.batch_size, *size, 3))
    loader = RingLoader(recipe, views.ready, 0, torch.device("cpu"), worker_count())
    return lambda: (batch["view"] for batch in loader.epoch(0))


class _Official(Dataset[Tensor]):
    """torchvision's ImageFolder with the transforms of MAE's `main_pretrain.py`."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files = files
        bicubic = v1.InterpolationMode.BICUBIC
        self.transform = v1.Compose(
            [
                v1.RandomResizedCrop(size, scale=_SCALE, interpolation=bicubic),
                v1.RandomHorizontalFlip(),
                v1.ToTensor(),
                v1.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as image:
            made: Tensor = self.transform(image.convert("RGB"))
        return made


class _Plain(Dataset[Tensor]):
    """The packed pictures through torchvision's newer transforms, one by one."""

    def __init__(self, packed: np.ndarray, size: int) -> None:
        self.packed = packed
        bicubic = v2.InterpolationMode.BICUBIC
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=_SCALE, interpolation=bicubic, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> Tensor:
        image = torch.from_numpy(np.array(self.packed[index])).permute(2, 0, 1)
        made: Tensor = self.transform(image)
        return made


def _loader(config: BenchConfig, dataset: Dataset[Tensor]) -> Epoch:
    return lambda: iter(
        DataLoader(
            dataset,
            config.batch_size,
            shuffle=True,
            num_workers=worker_count(),
            drop_last=True,
        )
    )


def _write_files(pixels: np.ndarray, folder: Path) -> list[Path]:
    files = [folder / f"{number:05}.jpg" for number in range(len(pixels))]
    for path, image in zip(files, pixels, strict=True):
        quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    return files


def _time_epoch(epoch: Epoch) -> tuple[float, float]:
    """Wall and processor seconds of the last `TIMED` batches, children's included."""
    batches = epoch()
    for _ in range(worker_count()):
        next(batches)
    wall, cpu = time.perf_counter(), _cpu_seconds()
    for _ in range(TIMED):
        next(batches)
    return time.perf_counter() - wall, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    """Processor seconds of this process and of those it started and that still run."""
    spent = time.process_time()
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # ended between the two calls
            continue
        spent += times.user + times.system
    return spent


def _ratio(ours: list[float], other: list[float]) -> Spread:
    return Spread.of([own / theirs for own, theirs in zip(ours, other, strict=True)])
