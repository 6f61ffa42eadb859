"""One image through the user's transforms, with draws that its key alone fixes.

albumentations 2.0.8 keeps a generator in every transform. In worker processes these repeat each
other and the epoch before; seeded by `set_random_seed`, all transforms draw the same numbers, so
that a flip and a jitter of probability 1/2 always come together, and a call costs as much as the
augmentation. Here all transforms of a pipeline share two generators that are set anew, in place,
before each image.
"""

import random
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from contramask.data.transforms import TransformsConfig, albumentations, leaves, make_transform
from contramask.draws import subkeys

# Streams of `contramask.draws`, one for each list of transforms.
STREAMS = {"shared": 48, "view": 49, "target_view": 50}
_TRIALS = 8  # draws of the check before training: sizes may depend on chance
_SIGNED_TO_UNSIGNED = (1 << 64) - 1

#: How the two views of an image must lie to each other.
Alignment = Literal["free", "same_place"]


def draw_keys(key: Tensor) -> np.ndarray:
    """What `Augmenter` needs of the images' keys (B,): uint64 (B, 3), a column for each list."""
    columns = [subkeys(key, stream) for stream in STREAMS.values()]
    return torch.stack(columns, dim=1).cpu().numpy().view(np.uint64)


class TransformFailed(ValueError):
    """A transform of the user's raised, or gave what is no view; the text names it."""


class Augmenter:
    """The user's transforms, ready to run in this process; `views` is 1 or 2."""

    def __init__(self, config: TransformsConfig, views: int) -> None:
        package = albumentations()
        lists = config.lists()
        self._bits = np.random.Philox(key=0)
        self._state = self._bits.state
        self._numbers = random.Random()
        self._pipelines: dict[str, Any] = {}
        for name in list(lists)[: 1 + views]:
            steps = [make_transform(s, f"{name}[{i}]") for i, s in enumerate(lists[name])]
            if steps:
                self._pipelines[name] = package.Compose(steps)
                generator = np.random.Generator(self._bits)
                self._pipelines[name].set_random_state(generator, self._numbers)
        self._views = list(STREAMS)[1 : 1 + views]

    def __call__(self, image: np.ndarray, keys: Sequence[int]) -> list[np.ndarray]:
        """The views of one uint8 image (H, W, C), from its row of `draw_keys`.

        Raises `TransformFailed`.
        """
        start = self._run("shared", image, int(keys[0]))
        # Some transforms write into what they are given.
        starts = [start, *(start.copy() for _ in self._views[1:])]
        numbered = enumerate(zip(self._views, starts, strict=True), start=1)
        return [self._run(name, each, int(keys[n])) for n, (name, each) in numbered]

    def _run(self, name: str, image: np.ndarray, key: int) -> np.ndarray:
        pipeline = self._pipelines.get(name)
        if pipeline is None:
            return image
        self._state["state"]["key"][0] = key
        self._bits.state = self._state
        self._numbers.seed(key)
        try:
            made: np.ndarray = pipeline(image=image)["image"]
        except Exception as error:  # anything: these are the user's
            failed = _culprit(error) or type(pipeline).__name__
            text = f"{failed} raised {type(error).__name__}: {error}"
            raise TransformFailed(text) from error
        return made


def write_views(
    augmenter: Augmenter, image: np.ndarray, keys: np.ndarray, slots: Sequence[np.ndarray]
) -> None:
    """Put an image's views into `slots`, uint8 (H, W, C) each; raises `TransformFailed`."""
    for made, slot in zip(augmenter(image, keys.tolist()), slots, strict=True):
        if np.shape(made) != slot.shape or getattr(made, "dtype", None) != slot.dtype:
            raise TransformFailed(f"the last transform {_misfit(made, slot)}")
        slot[...] = made


def check_transforms(
    config: TransformsConfig,
    views: int,
    alignment: Alignment,
    stored: tuple[int, int, int],
    wanted: tuple[int, int, int],
) -> None:
    """Refuse what cannot give views: tried on noise of the store's shape, before any image is read.

    `stored` and `wanted` are (rows, columns, channels). Raises `ValueError`.
    """
    if views == 1 and config.target_view is not None:
        raise ValueError("views.transforms.target_view is given, but the method sees one view")
    if views == 2 and alignment == "same_place":
        _check_alignment(config)
    rng = np.random.default_rng(0)
    augmenter = Augmenter(config, views)
    slots = [np.zeros(wanted, np.uint8) for _ in range(views)]
    for _ in range(_TRIALS):
        image = rng.integers(0, 256, stored, dtype=np.uint8)
        keys = rng.integers(0, _SIGNED_TO_UNSIGNED, len(STREAMS), dtype=np.uint64)
        try:
            write_views(augmenter, image, keys, slots)
        except TransformFailed as error:
            size = "x".join(map(str, stored))
            raise ValueError(f"views.transforms, tried on noise of {size}: {error}") from error


def _check_alignment(config: TransformsConfig) -> None:
    """The method compares the two views place by place: none may be moved on its own."""
    lists = config.lists()
    only_image = albumentations().ImageOnlyTransform
    for name in ("view", "target_view"):
        made = (make_transform(step, name) for step in lists[name])
        movers = [t for one in made for t in leaves(one) if not isinstance(t, only_image)]
        if movers:
            raise ValueError(
                f"views.transforms.{name} moves pixels ({type(movers[0]).__name__}), but this "
                "method compares two views place by place; put what moves under `shared`"
            )


def _culprit(error: Exception) -> str | None:
    """The class of the innermost transform on the error's way up."""
    kind, found, trace = albumentations().BasicTransform, None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        found = type(owner).__name__ if isinstance(owner, kind) else found
        trace = trace.tb_next
    return found


def _misfit(made: Any, slot: np.ndarray) -> str:
    given = f"{'x'.join(map(str, np.shape(made)))} {getattr(made, 'dtype', type(made).__name__)}"
    rows, cols, channels = slot.shape
    return (
        f"gave {given}; the view must be {rows}x{cols}x{channels} uint8: end with "
        f"RandomResizedCrop or Resize to {rows}x{cols}, and leave Normalize, ToFloat and "
        "ToTensorV2 out (the device normalises)"
    )
