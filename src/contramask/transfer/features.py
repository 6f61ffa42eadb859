"""Features of a frozen encoder: one pass over the images, every readout at once."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from contramask.data.loader import Images, Subset
from contramask.data.store import Store
from contramask.data.views import ViewConfig, ViewMaker, whole_images
from contramask.draws import image_keys
from contramask.models.bundle import EncoderBundle
from contramask.models.family import Encoder
from contramask.progress import track
from contramask.train.device import Machine, prepare

READOUTS = ("cls", "mean")

#: uint8 images (B, H, W, C) and their row numbers to what an encoder reads.
Inputs = Callable[[np.ndarray, np.ndarray], Tensor]


def labelled(split: Images) -> Subset:
    """The images of a split that have a label; a folder of classes may hold some beside them."""
    return Subset(split, np.flatnonzero(split.labels >= 0))


def unlabelled(store: Store) -> str:
    """Why nothing can be classified in a store, empty when something can."""
    if not store.has_labels:
        return "the images have no class labels"
    if not len(labelled(store["train"])):
        return "no training image has a class label"
    if "val" not in store or not len(labelled(store["val"])):
        return "there are no validation images with a class label"
    return ""


def nothing_to_probe(store: Store) -> str:
    """Why a probe can measure nothing at all on a store, empty when it can, labels or not."""
    if not len(store["train"]):
        return "there are no training images"
    if "val" not in store or not len(store["val"]):
        return "there are no validation images"
    return ""


def centre(pixels: np.ndarray, share: float) -> np.ndarray:
    """The middle of images (B, H, W, C), `share` of either side; 0.875 is 224 of 256 px."""
    height, width = pixels.shape[1:3]
    rows, cols = max(round(height * share), 1), max(round(width * share), 1)
    top, left = (height - rows) // 2, (width - cols) // 2
    return pixels[:, top : top + rows, left : left + cols]


class Normalised:
    """Turns stored uint8 images into what an encoder was trained on: its size, its statistics.

    size: another one, (rows, columns) in px.
    """

    def __init__(
        self, bundle: EncoderBundle, device: torch.device, size: tuple[int, int] | None = None
    ) -> None:
        manifest = bundle.manifest
        rows, cols = size or manifest["arch"]["image_size"]
        self.size, self.device = (rows, cols), device
        self.mean = torch.tensor(manifest["mean"], device=device).reshape(-1, 1, 1) * 255
        self.std = torch.tensor(manifest["std"], device=device).reshape(-1, 1, 1) * 255

    def __call__(self, images: np.ndarray) -> Tensor:
        """uint8 (B, H, W, C) to normalised float (B, C, rows, cols) on the device."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        return (whole_images(pixels, self.size) - self.mean) / self.std


def centred(bundle: EncoderBundle, device: torch.device, share: float) -> Inputs:
    """Views of the middle of images, as `centre` cuts it."""
    whole = Normalised(bundle, device)
    return lambda images, rows: whole(centre(images, share))


def _check_blocks(encoder: Encoder, blocks: Sequence[int]) -> None:
    unknown = [block for block in blocks if not 1 <= block <= len(encoder.blocks)]
    if unknown:
        raise ValueError(
            f"probe.blocks names block {unknown[0]}, but the encoder's blocks are numbered 1 to "
            f"{len(encoder.blocks)}"
        )


def readout_names(blocks: Sequence[int]) -> tuple[str, ...]:
    """The readouts of one pass: `cls`, `mean`, and both after each of `blocks` (from 1)."""
    return READOUTS + tuple(f"block{block}-{name}" for block in blocks for name in READOUTS)


def feature_batches(
    bundle: EncoderBundle,
    images: Images,
    machine: Machine,
    blocks: Sequence[int] = (),
    batch_size: int = 256,
    inputs: Inputs | None = None,
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Row numbers and features of all images, in order, batch by batch, on the device.

    float32 (B, D) for each of `readout_names(blocks)`, and `tokens`, the patch tokens (B, L, D) as
    precise as they were computed. All are read after the final norm; what a block in the middle
    gives is passed through the same norm, as DINO and DINOv2 do. `inputs` replaces the whole image
    by another view of it. Raises `ValueError` for a block the encoder has not.
    """
    encoder = bundle.encoder.eval()
    _check_blocks(encoder, blocks)
    prepare(encoder, machine)
    whole = Normalised(bundle, machine.device)
    starts = range(0, len(images), batch_size)
    title = f"features {bundle.manifest['method']}"
    for start in track(starts, title, len(starts)):
        rows = np.arange(start, min(start + batch_size, len(images)))
        pixels = images.__getitems__(rows)
        with machine.autocast(), torch.no_grad():
            batch = whole(pixels) if inputs is None else inputs(pixels, rows)
            found = _read(encoder, batch, blocks)
        yield rows, found


def _read(encoder: Encoder, batch: Tensor, blocks: Sequence[int]) -> dict[str, Tensor]:
    caught: dict[int, Tensor] = {}

    def keep(number: int) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, given, output: caught.__setitem__(number, output)

    hooks = [encoder.blocks[b - 1].register_forward_hook(keep(b)) for b in dict.fromkeys(blocks)]
    try:
        tokens = encoder.forward_tokens(batch)
    finally:
        for hook in hooks:
            hook.remove()
    found = {"tokens": tokens[:, 1:], **_pooled(tokens, "")}
    for block in blocks:
        found |= _pooled(encoder.norm(caught[block]), f"block{block}-")
    return found


def _pooled(tokens: Tensor, prefix: str) -> dict[str, Tensor]:
    mean = tokens[:, 1:].float().mean(dim=1)
    return {f"{prefix}cls": tokens[:, 0].float(), f"{prefix}mean": mean}


def extract_features(
    bundle: EncoderBundle,
    images: Images,
    machine: Machine,
    batch_size: int = 256,
    blocks: Sequence[int] = (),
    inputs: Inputs | None = None,
) -> dict[str, Tensor]:
    """Features of all images, float32 (N, D) on the processor, by readout.

    `cls` is the class token, `mean` the mean patch token, both after the final norm; for `blocks`
    and `inputs` see `feature_batches`.
    """
    names = readout_names(blocks)
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    for _, found in feature_batches(bundle, images, machine, blocks, batch_size, inputs):
        for name in names:
            parts[name].append(found[name].cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


def side_by_side(features: Mapping[str, Tensor], name: str) -> Tensor:
    """A readout (N, D), or several (N, D1 + D2 + ...) named with `+` between them."""
    parts = [features[part] for part in name.split("+")]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


class RandomCrops:
    """Another view of each image: a random resized crop, flipped at random, fixed by `seed`."""

    def __init__(self, bundle: EncoderBundle, device: torch.device, seed: int = 0) -> None:
        manifest, self.device, self.seed = bundle.manifest, device, seed
        rows, cols = manifest["arch"]["image_size"]
        config = ViewConfig(crop_scale=(0.2, 1.0), flip=0.5)
        self.views = ViewMaker(config, "single", (rows, cols), manifest["mean"], manifest["std"])

    def __call__(self, images: np.ndarray, rows: np.ndarray) -> Tensor:
        """uint8 (B, H, W, C) and row numbers (B,) to normalised float crops (B, C, rows, cols)."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        key = image_keys(self.seed, 0, torch.from_numpy(rows).to(self.device))
        view: Tensor = self.views(pixels, key, None)["view"]
        return view
