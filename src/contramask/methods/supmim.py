"""SupMIM: ordinary supervised training that also predicts hidden patches (Chen et al., 2312.00950).

A shallow decoder on top of the encoder predicts image tokens of masked images while the encoder
learns its classes; decoder and tokenizer are left behind:

    L = L_class + lambda L_mim,   L_mim = mean over hidden patches i of -log p(t_i | masked image)

A reconstruction, never a reproduction: only title, abstract and the first words of the paper could
be read, and no code was found. Certain are the supervised base, the shallow decoder and tokens as
the target (+2.01 points top-1 for ViT-B/14 on ImageNet-1k are claimed). All else is our choice,
led by the authors' earlier MaskGIT and MAGE and by neighbours (SupMAE, MaskSub):

- mode. `dual` classifies the complete image and, in a second pass, predicts from the masked one:
  masking the classifier's own input is reported to unsettle supervised training. `shared` does both
  on one masked image; each image has a ratio of its own and some stay complete, or a complete test
  image would be something new. `split` masks a part of the batch and classifies the rest.
- hidden patches are dropped in `dual`, replaced by a mask token in the others (`mask_style`).
- loss on hidden patches only, label smoothing 0.1 on tokens (MAGE), lambda 1.

lambda_mim 0 is the supervised baseline, step for step the same as training without any of this; a
dual step costs about 1.4 of its steps, so compare with 1.4 times the epochs, too.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.methods.base import Batch, Method, StepOutput, equal_parts, rows, together
from contramask.methods.masked_prediction import MaskedPass, MaskedPrediction, MaskRule
from contramask.methods.mim_target import PixelTarget, TargetConfig, TokenTarget, VQTargetConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import VisionEncoder
from contramask.models.pretrained_tokenizer import PretrainedTargetConfig, load_pretrained
from contramask.models.tokenizer_bundle import TokenizerBundle
from contramask.typed import STRICT

_SAMPLE = 32  # images on which the balance of the two losses is measured


@dataclass(frozen=True, config=STRICT)
class SupMIMConfig:
    """SupMIM's own settings; sizes are for ViT-B, and every default is our reading."""

    name: Literal["supmim"] = "supmim"
    mode: Literal["dual", "shared", "split"] = "dual"
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)  # shared, replaced: the largest one
    mask_block: int = Field(default=1, ge=1)  # patches per side of a masked cell
    mask_style: Literal["auto", "drop", "replace"] = "auto"  # auto: drop in dual, else replace
    clean_share: float = Field(default=0.25, ge=0, lt=1)  # shared, replaced: images left complete
    split_share: float = Field(default=0.5, gt=0, lt=1)  # split: share of the batch that is masked
    decoder: DecoderConfig = DecoderConfig(embed_dim=512, depth=2, num_heads=8)
    target: TargetConfig = VQTargetConfig()
    lambda_mim: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    pool: Literal["avg", "cls"] = "avg"  # what the class head reads: mean patch or class token
    #: weak_strong: the classifier reads the same crop with altered colours, targets stay true.
    view_mode: Literal["single", "weak_strong"] = "single"

    @model_validator(mode="after")
    def _fits(self) -> "SupMIMConfig":
        if self.mode == "shared" and self.mask_style == "drop" and self.clean_share:
            raise ValueError(
                f"clean_share {self.clean_share} leaves images complete, and mask_style drop hides "
                "equally many patches in all; set clean_share to 0, or mask_style to replace"
            )
        return self

    @property
    def needs_tokenizer(self) -> bool:
        """Whether the tokenizer stage has to run first."""
        return self.lambda_mim > 0 and self.target.name == "vq"

    @property
    def mask_rule(self) -> MaskRule:
        """How the masked pass hides patches, `auto` resolved."""
        style = self.mask_style
        if style == "auto":
            style = "drop" if self.mode == "dual" else "replace"
        clean_share = self.clean_share if (self.mode, style) == ("shared", "replace") else None
        return MaskRule(self.mask_ratio, self.mask_block, style, clean_share)


class SupMIM(Method):
    """Supervised training with masked image modelling beside it; call `attach` before anything.

    Batches need what `MaskedPrediction` needs and `label` (B,), -1 where unknown. The classifier
    reads `target_view` where there is one, except in shared mode.
    """

    config: SupMIMConfig
    gauges_read_weights = True
    encoder: VisionEncoder
    class_head: nn.Linear
    mim: MaskedPrediction | None  # None: plain supervised training

    def __init__(self, encoder: VisionEncoder, config: SupMIMConfig) -> None:
        super().__init__()
        if config.lambda_mim:
            config.mask_rule.check(encoder)
        self.encoder, self.config = encoder, config
        foreign = isinstance(config.target, PretrainedTargetConfig)  # it has no decoder here
        self.draws_pictures = config.lambda_mim > 0 and not foreign
        self.register_module("mim", None)

    @property
    def label(self) -> str:
        """`supervised` where no patches are predicted: a baseline is no result of the method."""
        return self.config.name if self.config.lambda_mim else "supervised"

    def attach(self, data: Mapping[str, Any], tokenizer: TokenizerBundle | None) -> None:
        """Make what depends on the data: class head, target and decoder.

        data is the store's manifest. Raises `ValueError` for images without classes, and for a
        missing, refused or unfitting tokenizer.
        """
        check_classes(data)
        config = self.config
        self.class_head = nn.Linear(self.encoder.embed_dim, len(data["classes"]))
        nn.init.trunc_normal_(self.class_head.weight, std=0.02)
        nn.init.zeros_(self.class_head.bias)
        if config.lambda_mim:
            # After the class head: the supervised part starts from the same weights without it.
            target = self._target(data, tokenizer)
            self.mim = MaskedPrediction(self.encoder, config.mask_rule, target, config.decoder)

    def _target(
        self, data: Mapping[str, Any], bundle: TokenizerBundle | None
    ) -> TokenTarget | PixelTarget:
        config, encoder = self.config.target, self.encoder
        if isinstance(config, PretrainedTargetConfig):
            pretrained = load_pretrained(config, encoder.patch_size)
            self.ingredients["tokenizer"] = pretrained.content_id()
            return TokenTarget(pretrained, data["mean"], data["std"], config.smoothing)
        if isinstance(config, VQTargetConfig):
            if bundle is None:
                raise ValueError(
                    "supmim predicts image tokens and there is no tokenizer; run the stage "
                    "tokenizer first, or set pretrain.method.target.name to pixels"
                )
            size = encoder.image_size
            own = bundle.for_training(data["data_hash"], encoder.patch_size, size)
            self.ingredients["tokenizer"] = bundle.tokenizer_id
            return TokenTarget(copy.deepcopy(own), data["mean"], data["std"], config.smoothing)
        return PixelTarget(encoder.patch_size, encoder.in_chans, config)

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss; terms: class_loss, class_top1 and, with targets, mim_loss and theirs."""
        self.latest = {k: v[:_SAMPLE].clone() for k, v in batch.items() if isinstance(v, Tensor)}
        if self.mim is None:
            logits, label = self.classify(_classified(batch)), batch["label"]
            labelled, _ = self._counts(batch, label, label.new_zeros(()))
            return StepOutput(*self._class_score(logits, label, labelled))
        logits, label, masked = self._both(self.mim, batch)
        labelled, hidden = self._counts(batch, label, masked.count)
        class_loss, terms = self._class_score(logits, label, labelled)
        self.mim.target.record(masked.target, masked.weight)
        mim_loss, more = self.mim.target.score(masked.pred, masked.target, masked.weight)
        weight = masked.count / hidden.clamp_min(1)
        loss = class_loss + self.config.lambda_mim * weight * mim_loss
        more = {"mim_loss": mim_loss.detach(), **more}
        return StepOutput(loss, terms | {name: weight * value for name, value in more.items()})

    def _both(self, mim: MaskedPrediction, batch: Batch) -> tuple[Tensor, Tensor, MaskedPass]:
        """Class logits, their labels, and what the masked pass gave, as the mode says."""
        if self.config.mode == "dual":
            return self.classify(_classified(batch)), batch["label"], mim(self.encoder, batch)
        if self.config.mode == "shared":
            masked = mim(self.encoder, batch)
            features = self._pool(masked.tokens, masked.visible)
            return self.class_head(features), batch["label"], masked
        first = batch.get("first", self._first(len(batch["label"])))
        # Batches are shuffled, so the first images are as random as any others.
        rest = rows(batch, slice(first, None))
        masked = mim(self.encoder, rows(batch, slice(first)))
        return self.classify(_classified(rest)), rest["label"], masked

    def _first(self, count: int) -> int:
        """How many of a batch's images `split` masks."""
        return min(max(round(self.config.split_share * count), 1), count - 1)

    def _counts(self, batch: Batch, label: Tensor, hidden: Tensor) -> Tensor:
        """Labelled images and hidden patches, (2,): over how much the losses are means.

        The average over all processes and all parts, so that the mean of their losses is right.
        """
        counts = batch.get("counts")
        if counts is None:
            counts = torch.stack([(label >= 0).sum(), hidden])[None]
        parts: int = batch.get("parts", 1)
        return self.gather(counts).float().mean(dim=0) / parts

    def cut(self, batch: Batch, parts: int) -> list[Batch]:
        """Parts that know how much the whole batch has of what its losses are means over.

        `split` masks the same images in parts as in the whole.
        """
        if parts == 1:
            return [batch]
        label, masked, cut = batch["label"], batch, equal_parts(batch, parts)
        if self.mim is not None and self.config.mode == "split":
            first = self._first(len(label))
            masked, rest = rows(batch, slice(first)), rows(batch, slice(first, None))
            label = rest["label"]
            pairs = zip(equal_parts(masked, parts), equal_parts(rest, parts), strict=True)
            cut = [{**together(*pair), "first": len(pair[0]["label"])} for pair in pairs]
        hidden = label.new_zeros(()) if self.mim is None else self.mim.draw_hidden(masked).sum()
        counts = torch.stack([(label >= 0).sum(), hidden])[None]
        return [{**part, "counts": counts, "parts": parts} for part in cut]

    def why_not_cut(self, images: int, parts: int) -> str | None:
        """Every part of a `split` batch needs a masked image and one that is not."""
        fewest = min(self._first(images), images - self._first(images))
        if self.config.mode != "split" or self.mim is None or fewest >= parts:
            return None
        return f"mode split masks {self._first(images)} of {images} images and classifies the rest"

    def classify(self, images: Tensor) -> Tensor:
        """Class logits (B, K) of complete images."""
        tokens = self.encoder.forward_tokens(images)
        visible = torch.ones(tokens.shape[0], tokens.shape[1] - 1, device=tokens.device)
        return self.class_head(self._pool(tokens, visible))  # type: ignore[no-any-return]

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What it makes of hidden patches, (B, L, P), and the mask (B, L), True where hidden."""
        if self.mim is None or not self.draws_pictures:
            return super().reconstruct(batch)
        pred, hidden = self.mim.predict_all(self.encoder, batch)
        return self.mim.target.picture(pred, batch["view"], hidden), hidden

    def gauges(self) -> dict[str, Tensor]:
        """The balance of both losses on up to 32 images of the latest step, and the target's own.

        grad_class and grad_mim are norms of the gradients of L_class and lambda L_mim at the last
        encoder block; grad_ratio, the second over the first, is healthy between 0.1 and 1.
        """
        if self.mim is None:
            return {}
        own = self.mim.target.gauges()
        with torch.enable_grad():
            logits, label, masked = self._both(self.mim, self.latest)
            class_loss, _ = self._class_score(logits, label, (label >= 0).sum())
            mim_loss, _ = self.mim.target.score(masked.pred, masked.target, masked.weight)
            norms = [self._gradient(loss) for loss in (class_loss, mim_loss)]
        grad_class, grad_mim = norms[0], self.config.lambda_mim * norms[1]
        ratio = grad_mim / grad_class.clamp_min(1e-12)
        return {"grad_class": grad_class, "grad_mim": grad_mim, "grad_ratio": ratio, **own}

    def _gradient(self, loss: Tensor) -> Tensor:
        """Norm of a loss's gradient at the last encoder block."""
        last = [p for p in self.encoder.blocks[-1].parameters() if p.requires_grad]
        parts = torch.autograd.grad(loss, last, retain_graph=True)
        norm: Tensor = torch.cat([part.flatten().float() for part in parts]).norm()
        return norm

    def _class_score(
        self, logits: Tensor, label: Tensor, labelled: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Smoothed cross-entropy over labelled images, 0 without any; terms: the loss and top-1.

        labelled is how many have a class.
        """
        smoothing = self.config.label_smoothing
        total = F.cross_entropy(
            logits.float(), label, reduction="sum", ignore_index=-1, label_smoothing=smoothing
        )
        loss = total / labelled.clamp_min(1e-6)
        top1 = (logits.argmax(dim=1) == label).sum() / labelled.clamp_min(1e-6)
        return loss, {"class_loss": loss.detach(), "class_top1": top1}

    def _pool(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """The class token, or the mean of visible patches: (B, D)."""
        if self.config.pool == "cls":
            return tokens[:, 0]
        weight = visible / visible.sum(dim=1, keepdim=True)
        return torch.einsum("bvd,bv->bd", tokens[:, 1:], weight.to(tokens.dtype))


def check_classes(data: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a store's manifest without classes."""
    if not data["classes"]:
        raise ValueError(
            "supmim learns from classes and these images have none; choose another method "
            "(pretrain.method.name), or give the images labels"
        )


def _classified(batch: Batch) -> Tensor:
    """The images the classifier reads, (B, C, H, W)."""
    images: Tensor = batch["target_view" if "target_view" in batch else "view"]
    return images
