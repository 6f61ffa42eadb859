"""What a decoder is asked for a hidden patch: its token or its pixels, and how that is scored."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from contramask.losses import normalise_patches, pixel_loss
from contramask.models.encoder import patchify
from contramask.models.pretrained_tokenizer import PretrainedTargetConfig, PretrainedTokenizer
from contramask.models.token_health import entropy
from contramask.models.tokenizer import VQTokenizer
from contramask.typed import STRICT

Scored = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True, config=STRICT)
class VQTargetConfig:
    """Tokens of the tokenizer that the tokenizer stage trained on the same images."""

    name: Literal["vq"] = "vq"
    smoothing: float = Field(default=0.1, ge=0, lt=1)  # MaskGIT's and MAGE's


@dataclass(frozen=True, config=STRICT)
class PixelTargetConfig:
    """Pixels, as MAE: the control that needs no tokenizer."""

    name: Literal["pixels"] = "pixels"
    norm_pix_loss: bool = True


TargetConfig = Annotated[
    VQTargetConfig | PixelTargetConfig | PretrainedTargetConfig, Field(discriminator="name")
]


class PixelTarget(nn.Module):
    """Pixels of hidden patches, mean squared error."""

    def __init__(self, patch_size: int, in_chans: int, config: PixelTargetConfig) -> None:
        super().__init__()
        self.patch_size, self.config = patch_size, config
        self.out_dim = patch_size**2 * in_chans

    def of(self, view: Tensor) -> Tensor:
        """Targets of all patches (B, L, P) of a normalised view."""
        patches = patchify(view, self.patch_size)
        return normalise_patches(patches) if self.config.norm_pix_loss else patches

    def score(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Scored:
        """The loss of predictions (M, P) where `weight` (M,) is not 0, and its terms."""
        if weight is not None:
            errors = (pred.float() - target.float()).square().mean(dim=-1)
            return (errors * weight).sum() / weight.sum().clamp_min(1), {}
        if not len(target):  # all images can be complete ones
            return pred.sum(), {}
        return pixel_loss(pred, target), {}

    def record(self, target: Tensor, weight: Tensor | None = None) -> None:
        """Nothing is counted of pixels."""

    def gauges(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def picture(self, pred: Tensor, view: Tensor, hidden: Tensor) -> Tensor:
        """Predictions (B, L, P) as `train.pictures` wants them: in each patch's own deviations."""
        return pred if self.config.norm_pix_loss else _in_deviations(pred.float(), self.of(view))


class TokenTarget(nn.Module):
    """Tokens of hidden patches, cross-entropy with label smoothing; the tokenizer is frozen.

    mean and std (C,) undo the views' normalisation. The histogram of all tokens seen tells what
    knowing token frequencies alone would cost.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    counts: Tensor  # (K,) int64, of all tokens so far
    recent: Tensor  # (K,) int64, since the gauges were last read

    def __init__(
        self,
        tokenizer: VQTokenizer | PretrainedTokenizer,
        mean: Sequence[float],
        std: Sequence[float],
        smoothing: float,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.smoothing, self.out_dim = smoothing, tokenizer.vocab_size
        for name, values in (("pixel_mean", mean), ("pixel_std", std)):
            column = torch.tensor(list(values)).reshape(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)
        for name in ("counts", "recent"):
            self.register_buffer(name, torch.zeros(self.out_dim, dtype=torch.int64))

    def train(self, mode: bool = True) -> "TokenTarget":
        """The tokenizer stays in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def of(self, view: Tensor) -> Tensor:
        """Tokens of all patches, (B, L) int64, of a normalised view."""
        return self.tokenizer.encode((view * self.pixel_std + self.pixel_mean).clamp(0, 1))

    def score(self, pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Scored:
        """The smoothed loss of logits (M, K) for tokens (M,); terms: token_nll, token_top1.

        Only tokens count whose `weight` (M,) is not 0.
        """
        logits = pred.float().log_softmax(dim=-1)
        own, mean = logits.gather(1, target[:, None])[:, 0], logits.mean(dim=-1)
        right = logits.argmax(dim=-1) == target
        count: Tensor | int = max(len(target), 1)  # all images of a batch can be complete ones
        if weight is not None:
            own, mean, right = own * weight, mean * weight, right & (weight > 0)
            count = weight.sum().clamp_min(1)
        nll, uniform, top1 = -own.sum() / count, -mean.sum() / count, right.sum() / count
        self.latest_nll = nll.detach()
        terms = {"token_nll": self.latest_nll, "token_top1": top1}
        return (1 - self.smoothing) * nll + self.smoothing * uniform, terms

    @torch.no_grad()
    def record(self, target: Tensor, weight: Tensor | None = None) -> None:
        """Count the tokens (B, L) of a training batch whose `weight`, if given, is not 0."""
        ids = target.flatten()
        ones = torch.ones_like(ids) if weight is None else weight.to(ids.dtype)
        self.recent.index_add_(0, ids, ones)
        self.counts.index_add_(0, ids, ones)

    @torch.no_grad()
    def gauges(self) -> dict[str, Tensor]:
        """token_entropy, token_gain and token_drift, in nats.

        The gain is the entropy of all tokens seen minus the latest loss without smoothing: 0 is
        what frequencies alone give, and it should pass 0.5. The drift is the divergence of the
        tokens since the last call from all; near 0, for tokenizer and views do not change.
        """
        known = entropy(self.counts)
        recent = self.recent / self.recent.sum().clamp_min(1)
        usual = self.counts / self.counts.sum().clamp_min(1)
        drift = torch.xlogy(recent, recent / usual.clamp_min(1e-12)).sum()
        self.recent.zero_()
        return {
            "token_entropy": known,
            "token_gain": known - self.latest_nll,
            "token_drift": drift,
        }

    @torch.no_grad()
    def picture(self, pred: Tensor, view: Tensor, hidden: Tensor) -> Tensor:
        """The image drawn from predicted tokens where hidden (B, L), true ones elsewhere.

        (B, L, P) in each patch's own deviations, as `train.pictures` wants it. Only for tokenizers
        of our own kind.
        """
        if not isinstance(self.tokenizer, VQTokenizer):
            raise ValueError("a pretrained tokenizer has no decoder here to draw pictures with")
        ids = torch.where(hidden, pred.argmax(dim=-1), self.of(view))
        images = self.tokenizer.decode(ids, self.tokenizer.grid_of(view))
        size = self.tokenizer.patch_size
        drawn = patchify((images - self.pixel_mean) / self.pixel_std, size)
        return _in_deviations(drawn, patchify(view, size))


def _in_deviations(pred: Tensor, patches: Tensor) -> Tensor:
    """Pixels (B, L, P) less the mean of the true patch, over its deviation."""
    deviation = (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    return (pred - patches.mean(dim=-1, keepdim=True)) / deviation
