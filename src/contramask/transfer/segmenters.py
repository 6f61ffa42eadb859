"""How pixels are classified: a frozen encoder with a linear head; UPerNet and DPT, fine-tuned."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.methods.base import StepOutput
from contramask.models.bundle import EncoderBundle
from contramask.models.dpt import DPT
from contramask.models.family import Encoder
from contramask.models.upernet import LinearSegmentationHead, UPerNet, resize_like
from contramask.train.device import Machine, prepare
from contramask.train.optim import decay_groups, layer_decay_groups
from contramask.transfer.dense import TuneConfig, normalise
from contramask.transfer.features import Normalised
from contramask.transfer.metrics import IGNORE_INDEX
from contramask.transfer.segment_config import SegmentationConfig, TunedHead

Batch = dict[str, Any]


def pixel_loss(logits: Tensor, semantic: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not ignored.

    `logits` (B, K, h, w) are enlarged to `semantic` (B, H, W); without any counted pixel the loss
    is 0, where torch's own mean would be NaN.
    """
    scores = resize_like(logits.float(), semantic)
    total = F.cross_entropy(scores, semantic.long(), ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (semantic != IGNORE_INDEX).sum().clamp(min=1)


class FrozenEncoder:
    """The last block's patch map after the final norm, from an encoder that is never trained."""

    def __init__(self, bundle: EncoderBundle, machine: Machine) -> None:
        self.encoder = bundle.encoder.eval()
        self.machine = machine
        prepare(self.encoder, machine)
        self.inputs = Normalised(bundle, machine.device)

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (B, H, W, C) to features (B, D, rows, cols) float32."""
        with self.machine.autocast():
            tokens = self.encoder.forward_tokens(normalise(pixels, self.inputs))[:, 1:]
        rows, cols = self.encoder.grid_size
        return tokens.float().transpose(1, 2).reshape(len(pixels), -1, rows, cols)

    def megabytes(self, count: int) -> float:
        """Memory that the features of `count` images take in half precision."""
        return count * self.encoder.num_patches * self.encoder.embed_dim * 2 / 2**20


class CachedFeatures:
    """Frozen features in half precision, (N, D, rows, cols), as a loader asks for them."""

    def __init__(self, features: np.ndarray, labels: np.ndarray) -> None:
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.features)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        """float16 (B, D, rows, cols)."""
        return np.array(self.features[indices])


class LinearSegmenter(nn.Module):
    """Trains only batch norm and a 1x1 convolution, on features that come with the batch."""

    def __init__(self, embed_dim: int, num_classes: int) -> None:
        super().__init__()
        self.head = LinearSegmentationHead(embed_dim, num_classes)

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss from `features` (B, D, rows, cols) and `semantic` (B, H, W)."""
        return StepOutput(pixel_loss(self.head(batch["features"]), batch["semantic"]))

    def groups(self, config: TuneConfig) -> list[dict[str, Any]]:
        """Optimiser groups: the head's."""
        return decay_groups(self.head, config.weight_decay, "one_dim")


class UPerNetSegmenter(nn.Module):
    """Trains UPerNet and the encoder under it."""

    def __init__(self, net: UPerNet, aux_weight: float) -> None:
        super().__init__()
        self.net, self.aux_weight = net, aux_weight

    @property
    def taps(self) -> tuple[int, ...]:
        """The blocks that are read."""
        return self.net.taps

    def scores(self, images: Tensor) -> Tensor:
        """Scores (B, K, h, w) of normalised images (B, C, H, W)."""
        return self.net(images)[0]  # type: ignore[no-any-return]

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss from `images` and `semantic`; terms: main_loss, aux_loss."""
        logits, aux_logits = self.net(batch["images"])
        main = pixel_loss(logits, batch["semantic"])
        aux = pixel_loss(aux_logits, batch["semantic"])
        terms = {"main_loss": main.detach(), "aux_loss": aux.detach()}
        return StepOutput(main + self.aux_weight * aux, terms)

    def groups(self, config: TuneConfig) -> list[dict[str, Any]]:
        """Optimiser groups: the encoder's layer by layer, the heads' at the full rate."""
        heads = [self.net.pyramid, self.net.head, self.net.aux]
        return layer_decay_groups(self.net.encoder, heads, config.weight_decay, config.layer_decay)


class DPTSegmenter(nn.Module):
    """Trains DPT and the encoder under it; the library's DPT has no auxiliary head."""

    def __init__(self, net: DPT) -> None:
        super().__init__()
        self.net = net

    @property
    def taps(self) -> tuple[int, ...]:
        """The blocks that are read."""
        return self.net.taps

    def scores(self, images: Tensor) -> Tensor:
        """Scores (B, K, H, W) of normalised images (B, C, H, W)."""
        return self.net(images)  # type: ignore[no-any-return]

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss from `images` and `semantic`."""
        return StepOutput(pixel_loss(self.scores(batch["images"]), batch["semantic"]))

    def groups(self, config: TuneConfig) -> list[dict[str, Any]]:
        """Optimiser groups: the encoder's layer by layer, the decoder's at the full rate."""
        heads = [self.net.decoder, self.net.head]
        return layer_decay_groups(self.net.encoder, heads, config.weight_decay, config.layer_decay)


def build_segmenter(
    head: TunedHead, encoder: Encoder, num_classes: int, config: SegmentationConfig
) -> UPerNetSegmenter | DPTSegmenter:
    """The network of a head that is trained together with its encoder."""
    if head == "dpt":
        return DPTSegmenter(DPT(encoder, num_classes, config.dpt_net))
    return UPerNetSegmenter(UPerNet(encoder, num_classes, config.net), config.net.aux_weight)
