"""Mask R-CNN on a plain Vision Transformer, after ViTDet (2203.16527), from torchvision's parts.

With `window` and `cascade` it is ViTDet's own detector. What still differs from detectron2:
smooth L1 (beta 1/9) where ViTDet uses plain L1. Regions are pooled with aligned corners there and
here.
"""

from math import floor

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from timm.layers import LayerNorm2d  # type: ignore[attr-defined]
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from contramask.models.cascade import OVERLAPS, WEIGHTS, BoxPredictor, CascadeRoIHeads
from contramask.models.encoder import VisionEncoder
from contramask.models.family import Encoder
from contramask.models.pyramid import SimplePyramid
from contramask.models.regions import AlignedRoIPool, StrideAnchors
from contramask.models.windowed import WindowedEncoder, even_blocks
from contramask.typed import STRICT

#: What a detector looks through: an encoder of either family, or one with windowed attention.
Backbone = Encoder | WindowedEncoder


@dataclass(frozen=True, config=STRICT)
class DetectorConfig:
    """Sizes of the detector; the defaults suit images of 32 px on a processor.

    ViTDet's own values stand in comments. `scales` are the pyramid's levels as multiples of the
    patch grid, `anchor_strides` the side of an anchor in strides of its level.
    """

    #: Side in patches of the windows most blocks attend in; null: every block sees all patches.
    window: int | None = Field(default=None, ge=1)  # 14
    #: 0-based blocks that see all patches under `window`; null = four, evenly spaced.
    global_blocks: tuple[int, ...] | None = None  # 2, 5, 8, 11 of 12
    rel_pos: bool = True  # decomposed relative positions under `window`, zero at the start
    cascade: bool = False  # three box heads, each starting where the one before it ended
    scales: tuple[float, ...] = (2.0, 1.0, 0.5)  # 4, 2, 1, 0.5
    channels: int = Field(default=32, ge=8)  # 256
    anchor_strides: float = Field(default=4.0, gt=0)  # 8: 32 px at stride 4
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_convs: int = Field(default=2, ge=1)
    rpn_samples: int = Field(default=64, ge=2)  # 256
    train_proposals: int = Field(default=50, ge=1)  # 1000
    test_proposals: int = Field(default=30, ge=1)  # 1000
    roi_samples: int = Field(default=16, ge=4)  # 512, a quarter of them objects
    box_convs: int = Field(default=1, ge=0)  # 4
    box_hidden: int = Field(default=256, ge=8)  # 1024
    mask_convs: int = Field(default=2, ge=1)  # 4
    score_threshold: float = Field(default=0.05, ge=0, le=1)
    max_detections: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _has_windows(self) -> "DetectorConfig":
        if self.global_blocks is not None and self.window is None:
            raise ValueError(
                "global_blocks are those that see more than a window, and window is null; set "
                "window (ViTDet: 14), or leave global_blocks out"
            )
        return self


class _Float32RPNHead(RPNHead):  # type: ignore[misc]
    """Proposals in float32: torchvision decodes boxes in the head's dtype, too coarse in bf16."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [t.float() for t in logits], [t.float() for t in deltas]


class _Float32Predictor(FastRCNNPredictor):  # type: ignore[misc]
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class _Float32MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()  # type: ignore[no-any-return]


class FasterRCNN(nn.Module):
    """Boxes and their classes from a plain encoder with ViTDet's simple feature pyramid.

    The encoder fixes the image size. `num_classes` counts the object classes; inside, and in
    targets and detections, label 0 is background and object labels start at 1.
    """

    def __init__(self, encoder: Backbone, num_classes: int, config: DetectorConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_classes = num_classes
        self.config = config
        self.pyramid = SimplePyramid(encoder.embed_dim, config.channels, config.scales)
        self.strides = _whole_strides(encoder.patch_size, self.pyramid.scales)
        self.rpn = _build_rpn(self.strides, config)
        self.roi_heads = _build_roi_heads(self.strides[:-1], num_classes, config)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Pyramid levels of (B, C, H, W), finest first, from the map after the last block."""
        tokens = self.encoder.tokens(images)[:, self.encoder.num_prefix_tokens :]
        rows, cols = self.encoder.grid_size
        grid = tokens.transpose(1, 2).reshape(len(images), -1, rows, cols)  # (B, D, rows, cols)
        levels: dict[str, Tensor] = self.pyramid(grid)
        return levels

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Training losses by name. `targets`, one an image: boxes (N, 4) px float32, labels (N,)
        int64 from 1, masks (N, H, W) uint8 where the model predicts masks; N may be 0."""
        return self._run(images, targets)[1]

    def detect(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detections by image, best first: boxes (N, 4) px, labels from 1, scores, and masks
        (N, 1, m, m) inside the box where the model predicts them. Call in eval mode."""
        return self._run(images, None)[0]

    def _run(
        self, images: Tensor, targets: list[dict[str, Tensor]] | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        rows, cols = images.shape[-2:]
        batch = ImageList(images, [(rows, cols)] * len(images))
        levels = self.features(images)
        proposals, rpn_losses = self.rpn(batch, levels, targets)
        found, roi_losses = self.roi_heads(levels, proposals, batch.image_sizes, targets)
        return found, {**rpn_losses, **roi_losses}


class MaskRCNN(FasterRCNN):
    """`FasterRCNN` with a mask branch (1703.06870): 2 x 14 px masks inside each box."""

    def __init__(self, encoder: Backbone, num_classes: int, config: DetectorConfig) -> None:
        super().__init__(encoder, num_classes, config)
        width = config.channels
        self.roi_heads.mask_roi_pool = AlignedRoIPool(self.strides[:-1], 14)
        self.roi_heads.mask_head = MaskRCNNHeads(
            width, [width] * config.mask_convs, dilation=1, norm_layer=LayerNorm2d
        )
        self.roi_heads.mask_predictor = _Float32MaskPredictor(width, width, num_classes + 1)


def _whole_strides(patch_size: int, scales: tuple[float, ...]) -> tuple[int, ...]:
    """Level strides in px; raises `ValueError` where a level would be finer than the pixels."""
    strides = [patch_size / scale for scale in scales]
    if any(s != floor(s) or s < 1 for s in strides):
        raise ValueError(
            f"patches of {patch_size} px and pyramid scales {scales[:-1]} give strides of "
            f"{strides} px; leave out the finest scales so that each stride is a whole number"
        )
    return tuple(int(s) for s in strides)


def _build_rpn(strides: tuple[int, ...], config: DetectorConfig) -> RegionProposalNetwork:
    anchors = StrideAnchors(strides, config.anchor_strides, config.aspect_ratios)
    head = _Float32RPNHead(config.channels, len(config.aspect_ratios), config.rpn_convs)
    return RegionProposalNetwork(
        anchors,
        head,
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=config.rpn_samples,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 2 * config.train_proposals, "testing": config.test_proposals},
        post_nms_top_n={"training": config.train_proposals, "testing": config.test_proposals},
        nms_thresh=0.7,
    )


def windowed(encoder: Encoder, config: DetectorConfig) -> Backbone:
    """The encoder with the attention `config.window` asks for, as it is where that is null.

    Raises `ValueError` for BEiT, whose biases belong to the whole grid.
    """
    if config.window is None:
        return encoder
    if not isinstance(encoder, VisionEncoder):
        raise ValueError(
            "detection.detector.window needs a plain Vision Transformer, and this encoder is a "
            "BEiT (conmim); set it to null"
        )
    chosen = config.global_blocks
    blocks = even_blocks(len(encoder.blocks)) if chosen is None else chosen
    return WindowedEncoder(encoder, config.window, blocks, config.rel_pos)


def _build_roi_heads(
    strides: tuple[int, ...], num_classes: int, config: DetectorConfig
) -> RoIHeads:
    width = config.channels
    stages = len(OVERLAPS) if config.cascade else 1
    heads = [
        FastRCNNConvFCHead(
            (width, 7, 7), [width] * config.box_convs, [config.box_hidden], norm_layer=LayerNorm2d
        )
        for _ in range(stages)
    ]
    settings = {
        "box_roi_pool": AlignedRoIPool(strides, 7),
        "fg_iou_thresh": 0.5,
        "bg_iou_thresh": 0.5,
        "batch_size_per_image": config.roi_samples,
        "positive_fraction": 0.25,
        "bbox_reg_weights": WEIGHTS[0],
        "score_thresh": config.score_threshold,
        "nms_thresh": 0.5,
        "detections_per_img": config.max_detections,
    }
    if config.cascade:
        predictors = [BoxPredictor(config.box_hidden, num_classes + 1) for _ in range(stages)]
        return CascadeRoIHeads(heads, predictors, settings)
    predictor = _Float32Predictor(config.box_hidden, num_classes + 1)
    return RoIHeads(box_head=heads[0], box_predictor=predictor, **settings)
