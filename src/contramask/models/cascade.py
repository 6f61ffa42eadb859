"""Cascade R-CNN's box heads (1712.00726, 1906.09756) on torchvision's parts.

Each stage corrects the boxes of the one before it and asks for a better overlap; boxes do not
depend on the class, and the stages' class scores are averaged. Masks learn from the first stage's
boxes, as in detectron2.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import boxes as box_ops

#: Overlap from which a box counts as an object, and the scales of its corrections, by stage.
OVERLAPS = (0.5, 0.6, 0.7)
WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))

Targets = list[dict[str, Tensor]]
Shapes = list[tuple[int, int]]


class BoxPredictor(nn.Module):
    """Scores (N, K+1) and one correction a box (N, 4), in float32, from features (N, D)."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_features, num_classes)
        self.bbox_pred = nn.Linear(in_features, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Score and correct."""
        return self.cls_score(x).float(), self.bbox_pred(x).float()


class _ScaledGradient(torch.autograd.Function):
    """The identity whose gradient is multiplied: each stage has its share in the features."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.scale, None


class CascadeRoIHeads(RoIHeads):  # type: ignore[misc]  # torchvision is untyped
    """`RoIHeads` with one head and predictor a stage; sampling and masks are torchvision's.

    heads: from pooled regions to features, one a stage; predictors: `BoxPredictor`s; `settings` are
    `RoIHeads`' own for its first stage.
    """

    def __init__(
        self, heads: Sequence[nn.Module], predictors: Sequence[nn.Module], settings: dict[str, Any]
    ) -> None:
        super().__init__(box_head=heads[0], box_predictor=predictors[0], **settings)
        self.later_heads = nn.ModuleList(heads[1:])
        self.later_predictors = nn.ModuleList(predictors[1:])
        self.coders = [BoxCoder(weights) for weights in WEIGHTS[: len(heads)]]
        self.matchers = [
            Matcher(overlap, overlap, allow_low_quality_matches=False)
            for overlap in OVERLAPS[: len(heads)]
        ]

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: Shapes,
        targets: Targets | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's: detections by image in eval mode, losses by name in training."""
        if self.training and targets is not None:
            return [], self._losses(features, proposals, image_shapes, targets)
        found = self._detections(features, proposals, image_shapes)
        if self.has_mask():
            regions = self.mask_roi_pool(features, [f["boxes"] for f in found], image_shapes)
            logits = self.mask_predictor(self.mask_head(regions))
            masks = maskrcnn_inference(logits, [f["labels"] for f in found])
            for one, mask in zip(found, masks, strict=True):
                one["masks"] = mask
        return found, {}

    def _stage(
        self, number: int, features: dict[str, Tensor], boxes: list[Tensor], shapes: Shapes
    ) -> tuple[Tensor, Tensor]:
        """Scores and corrections of one stage for the boxes of all images."""
        head = self.later_heads[number - 1] if number else self.box_head
        predictor = self.later_predictors[number - 1] if number else self.box_predictor
        pooled = self.box_roi_pool(features, boxes, shapes)
        pooled = _ScaledGradient.apply(pooled, 1 / len(self.coders))
        scores, deltas = predictor(head(pooled))
        return scores, deltas

    def _moved(
        self, number: int, deltas: Tensor, boxes: list[Tensor], shapes: Shapes
    ) -> list[Tensor]:
        """The boxes after a stage's corrections, inside their images, without gradient."""
        counts = [len(b) for b in boxes]
        decoded = self.coders[number].decode(deltas.detach(), boxes)[:, 0].split(counts)
        return [
            box_ops.clip_boxes_to_image(b, shape) for b, shape in zip(decoded, shapes, strict=True)
        ]

    def _losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], shapes: Shapes, targets: Targets
    ) -> dict[str, Tensor]:
        boxes, matched, labels, _ = self.select_training_samples(proposals, targets)
        losses = {}
        first = (boxes, matched, labels)
        for number in range(len(self.coders)):
            if number:
                matched, labels = self._matched(number, boxes, targets)
            scores, deltas = self._stage(number, features, boxes, shapes)
            wanted = self._corrections(number, boxes, matched, targets)
            name = f"_stage{number}"
            losses[f"loss_classifier{name}"] = F.cross_entropy(scores, torch.cat(labels))
            losses[f"loss_box_reg{name}"] = _box_loss(deltas, wanted, torch.cat(labels))
            if number + 1 < len(self.coders):
                boxes = self._moved(number, deltas, boxes, shapes)
        if self.has_mask():
            losses["loss_mask"] = self._mask_loss(features, first, shapes, targets)
        return losses

    def _matched(
        self, number: int, boxes: list[Tensor], targets: Targets
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of every box the object it overlaps most, and its label, 0 below the stage's overlap."""
        found, labels = [], []
        for own, target in zip(boxes, targets, strict=True):
            if not len(target["boxes"]):
                found.append(torch.zeros(len(own), dtype=torch.int64, device=own.device))
                labels.append(torch.zeros_like(found[-1]))
                continue
            index = self.matchers[number](box_ops.box_iou(target["boxes"].to(own), own))
            # A box moved to no area belongs to nothing.
            is_object = (index >= 0) & (own[:, 2:] > own[:, :2]).all(dim=1)
            found.append(index.clamp(min=0))
            labels.append(torch.where(is_object, target["labels"][found[-1]], 0))
        return found, labels

    def _corrections(
        self, number: int, boxes: list[Tensor], matched: list[Tensor], targets: Targets
    ) -> Tensor:
        """What would move each box onto its object, (N, 4)."""
        truth = [
            target["boxes"].to(own)[index] if len(target["boxes"]) else torch.zeros_like(own)
            for own, index, target in zip(boxes, matched, targets, strict=True)
        ]
        return torch.cat(self.coders[number].encode(truth, boxes))

    def _mask_loss(
        self,
        features: dict[str, Tensor],
        sampled: tuple[list[Tensor], list[Tensor], list[Tensor]],
        shapes: Shapes,
        targets: Targets,
    ) -> Tensor:
        chosen = [label > 0 for label in sampled[2]]
        boxes = [box[where] for box, where in zip(sampled[0], chosen, strict=True)]
        index = [match[where] for match, where in zip(sampled[1], chosen, strict=True)]
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, shapes)))
        masks, labels = [t["masks"] for t in targets], [t["labels"] for t in targets]
        loss: Tensor = maskrcnn_loss(logits, boxes, masks, labels, index)
        return loss

    def _detections(
        self, features: dict[str, Tensor], proposals: list[Tensor], shapes: Shapes
    ) -> list[dict[str, Tensor]]:
        boxes, total = proposals, None
        for number in range(len(self.coders)):
            scores, deltas = self._stage(number, features, boxes, shapes)
            shares = scores.softmax(dim=1)
            total = shares if total is None else total + shares
            if number + 1 < len(self.coders):
                boxes = self._moved(number, deltas, boxes, shapes)
        if total is None:
            raise ValueError("a cascade needs at least one stage")
        # torchvision's post-processing wants logits and corrections by class: it takes the softmax
        # of the logarithm, which is the mean share, and the same box for each class.
        logits = (total / len(self.coders)).clamp_min(1e-12).log()
        self.box_coder = self.coders[-1]
        found = self.postprocess_detections(
            logits, deltas.repeat(1, logits.shape[1]), boxes, shapes
        )
        self.box_coder = self.coders[0]  # training encodes the first stage's targets with it
        names = ("boxes", "scores", "labels")
        return [dict(zip(names, one, strict=True)) for one in zip(*found, strict=True)]


def _box_loss(deltas: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
    """Smooth L1 of the objects' corrections over all boxes, as torchvision weighs it."""
    here = torch.where(labels > 0)[0]
    total = F.smooth_l1_loss(deltas[here], wanted[here], beta=1 / 9, reduction="sum")
    return total / max(labels.numel(), 1)
