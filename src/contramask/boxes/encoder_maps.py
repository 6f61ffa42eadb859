"""Where the object may be, by a trained encoder: heat maps from its tokens, keys and attention.

The published rule, a sum over channels, is empty on a ViT: after the final norm it is the same for
every token. Each map here is the mean over an image and its mirror image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contramask.boxes.heatmaps import Producer, stretch
from contramask.boxes.reconstruction import content_keys, reconstruction_errors
from contramask.boxes.taps import Taps, check_blocks, read_taps
from contramask.boxes.token_maps import (
    class_attention_map,
    first_component,
    key_similarity,
    normalised_cut,
    rollout,
    token_norm,
)
from contramask.data.views import whole_images
from contramask.models.bundle import EncoderBundle
from contramask.models.pixel_decoder import PixelDecoder
from contramask.models.precision import has_fast_bf16

EncoderMap: TypeAlias = Literal[
    "cls_attn", "rollout", "key_sim", "ncut", "pc1", "token_norm", "rec_err"
]
#: `blank`: tokens and keys relative to those of an image of the mean colour; `none`: as they are.
Baseline: TypeAlias = Literal["blank", "none"]

#: Maps of tokens or keys, which know a baseline; of the others only attention is read.
RELATIVE: tuple[EncoderMap, ...] = ("key_sim", "ncut", "pc1", "token_norm")
ENCODER_MAPS: tuple[EncoderMap, ...] = ("cls_attn", "rollout", *RELATIVE, "rec_err")

_FLAT = 1.0  # grey levels of 255: an image with less contrast shows no object
_TOKENS = 16_384  # of one run of the encoder: bounds the memory that attention takes


@dataclass(frozen=True)
class MapChoice:
    """One heat map an encoder can give: which, after which block (None: the last), and relative to
    what. A trained encoder's tokens tell above all where they are; the baseline takes that off.
    """

    name: EncoderMap
    block: int | None = None
    baseline: Baseline = "blank"


def pick_device() -> tuple[torch.device, Literal["bf16", "fp32"]]:
    """Where encoders run, and how precisely: bfloat16 where it is fast."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return device, "bf16" if has_fast_bf16(device) else "fp32"


class EncoderMaps:
    """Several heat maps from one run of an encoder, on an accelerator where there is one.

    Raises `ValueError` for blocks the encoder does not have, for `rec_err` without a decoder, and
    when called with images of another number of channels.
    """

    def __init__(
        self,
        bundle: EncoderBundle,
        choices: Sequence[MapChoice],
        decoder: PixelDecoder | None = None,
    ) -> None:
        self.device, self.precision = pick_device()
        self.encoder = bundle.encoder.eval().to(self.device)
        self.choices, self.decoder = choices, decoder
        if decoder is not None:
            decoder.decoder.eval().to(self.device)
        elif any(choice.name == "rec_err" for choice in choices):
            raise ValueError(
                "the map rec_err needs the pixel decoder the encoder was trained with, and there "
                "is none; choose one of " + ", ".join(ENCODER_MAPS[:-1])
            )
        depth = len(self.encoder.blocks)
        self.blocks = {choice.block or depth for choice in choices if choice.name != "rec_err"}
        if self.blocks:
            check_blocks(self.encoder, self.blocks)
        self.mean, self.std = (
            torch.tensor(bundle.manifest[name], device=self.device).reshape(-1, 1, 1) * 255
            for name in ("mean", "std")
        )
        border = torch.ones(self.encoder.grid_size, dtype=torch.bool, device=self.device)
        border[1:-1, 1:-1] = False
        self.border = border.flatten()
        with torch.inference_mode():
            shape = (1, self.encoder.in_chans, *self.encoder.image_size)
            self.blank = self._taps(torch.zeros(shape, device=self.device))

    def __call__(self, images: np.ndarray, grid: int) -> list[np.ndarray]:
        """The maps of uint8 images (B, H, W, C), one float32 (B, grid, grid) in [0, 1] a choice."""
        if images.shape[-1] != self.encoder.in_chans:
            raise ValueError(
                f"the encoder reads {self.encoder.in_chans} channels and the images have "
                f"{images.shape[-1]}; give crop_boxes.encoder one that was trained on such images"
            )
        parts = [self._maps(batch, grid) for batch in self.batches(images)]
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def batches(self, images: np.ndarray) -> list[Tensor]:
        """The images (B, H, W, C) in runs that fit the memory, on the encoder's device."""
        step = max(_TOKENS // (self.encoder.num_patches + 1), 1)
        starts = range(0, len(images), step)
        return [torch.tensor(images[start : start + step], device=self.device) for start in starts]

    def autocast(self) -> torch.autocast:
        """The precision of the encoder's products; the arithmetic of the maps stays float32."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )

    @torch.inference_mode()
    def _maps(self, images: Tensor, grid: int) -> list[np.ndarray]:
        pixels = whole_images(images, self.encoder.image_size)
        view, key = (pixels - self.mean) / self.std, content_keys(images)
        contrast = (pixels.amax((1, 2, 3)) - pixels.amin((1, 2, 3))) >= _FLAT
        found = []
        pairs = zip(self._places(view, key), self._places(view.flip(3), key), strict=True)
        for straight, mirrored in pairs:
            both = (straight + mirrored.flip(2))[:, None]
            maps = F.interpolate(both, (grid, grid), mode="bilinear", antialias=True)[:, 0]
            found.append(stretch((maps * contrast[:, None, None]).cpu().numpy()))
        return found

    def _places(self, view: Tensor, key: Tensor) -> list[Tensor]:
        """Each choice's map of a normalised view, (B, rows, cols) in [0, 1]."""
        taps, found = self._taps(view), []
        for choice in self.choices:
            if choice.name == "rec_err" and self.decoder is not None:
                with self.autocast():
                    values = reconstruction_errors(self.encoder, self.decoder, view, key)
            else:
                block = choice.block or len(self.encoder.blocks)
                blank = self.blank[block] if choice.baseline == "blank" else None
                values = _MAPS[choice.name](taps[block], blank, self.border)
            low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
            values = (values - low) / (high - low).clamp_min(1e-12)
            found.append(values.reshape(-1, *self.encoder.grid_size))
        return found

    def _taps(self, view: Tensor) -> dict[int, Taps]:
        if not self.blocks:
            return {}
        whole = any(choice.name == "rollout" for choice in self.choices)
        with self.autocast():
            return read_taps(self.encoder, view, self.blocks, whole)


def encoder_maps(
    bundle: EncoderBundle, choice: MapChoice, decoder: PixelDecoder | None = None
) -> Producer:
    """A producer of one encoder's heat maps of one kind; raises as `EncoderMaps` does."""
    maps = EncoderMaps(bundle, [choice], decoder)
    return lambda images, grid: maps(images, grid)[0]


def find_decoder(folder: Path, bundle: EncoderBundle) -> PixelDecoder | None:
    """The decoder beside an encoder, if there is one; raises `ValueError` for a damaged one."""
    there = (folder / "decoder.safetensors").is_file()
    return PixelDecoder.read(folder, bundle.encoder) if there else None


def read_decoder(folder: Path, bundle: EncoderBundle, name: str) -> PixelDecoder | None:
    """The decoder beside an encoder where the map `name` needs one.

    Raises `ValueError` that says what to do instead when there is none.
    """
    if name != "rec_err":
        return None
    try:
        return PixelDecoder.read(folder, bundle.encoder)
    except ValueError as error:
        others = ", ".join(ENCODER_MAPS[:-1])
        raise ValueError(f"{error}; set crop_boxes.method to one of {others}") from error


def _without_common(keys: Tensor) -> Tensor:
    """Keys (B, L, D) less their image's mean: what all share makes every pair look similar."""
    return keys - keys.mean(dim=1, keepdim=True)


def _keys(taps: Taps, blank: Taps | None) -> Tensor:
    return taps.keys if blank is None else _without_common(taps.keys - blank.keys)


def _tokens(tokens: Tensor, blank: Tensor | None) -> Tensor:
    """Patch tokens (B, L, D), relative to a blank image's."""
    return (tokens if blank is None else tokens - blank)[:, 1:]


#: What makes (B, L) numbers of an image's taps, a blank image's (or None), and the border patches.
_MAPS: dict[str, Callable[[Taps, Taps | None, Tensor], Tensor]] = {
    "cls_attn": lambda taps, blank, border: class_attention_map(taps.class_attention),
    "rollout": lambda taps, blank, border: rollout(taps.attention),
    "key_sim": lambda taps, blank, border: key_similarity(_keys(taps, blank)),
    "ncut": lambda taps, blank, border: normalised_cut(_keys(taps, blank)),
    "pc1": lambda taps, blank, border: first_component(
        _tokens(taps.normed, None if blank is None else blank.normed), border
    ),
    "token_norm": lambda taps, blank, border: token_norm(
        _tokens(taps.tokens, None if blank is None else blank.tokens)
    ),
}
