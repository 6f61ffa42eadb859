"""Regions of a feature pyramid: anchors to look at, pooling to read them, masks to draw in them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

#: A box of this many strides per side is pooled from the level of that stride (FPN: 224 px at 16).
CANONICAL_STRIDES = 14.0


class StrideAnchors(AnchorGenerator):  # type: ignore[misc]  # torchvision is untyped
    """Anchors on levels of known stride, always in float32.

    torchvision divides image by map size, which is wrong for levels with a rounded-up side, and
    takes the maps' dtype, which under bf16 autocast moves anchors by pixels.
    """

    def __init__(self, strides: tuple[int, ...], side: float, ratios: tuple[float, ...]) -> None:
        super().__init__(tuple((side * s,) for s in strides), (ratios,) * len(strides))
        self.strides = strides

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """All anchors of each image, one (A, 4) tensor xyxy in px an image."""
        device = feature_maps[0].device
        self.set_cell_anchors(torch.float32, device)
        steps = [[torch.tensor(s, device=device)] * 2 for s in self.strides]
        levels = self.grid_anchors([list(x.shape[-2:]) for x in feature_maps], steps)
        return [torch.cat(levels)] * len(image_list.image_sizes)


class AlignedRoIPool(nn.Module):
    """RoIAlign with aligned corners, each box from the pyramid level that suits its size.

    FPN's equation 1 (1612.03144) with levels told by stride: a box of 14 strides a side belongs to
    the level of that stride. torchvision's own pooler shifts boxes by half a cell.
    """

    def __init__(self, strides: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        self.strides = strides
        self.output_size = (output_size, output_size)

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """Pool boxes (one (N_i, 4) tensor an image, px): (sum N_i, C, size, size)."""
        # float32: box corners lose whole pixels in bf16, and roi_align knows no bf16 on processors.
        maps = [features[name].float() for name in features if name != "pool"]
        owner = [torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)]
        rois = torch.cat([torch.cat(owner), torch.cat(boxes)], dim=1).float()  # (R, 5)
        level = self._level(rois)
        pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], *self.output_size)
        for i, (stride, tap) in enumerate(zip(self.strides, maps, strict=True)):
            here = torch.where(level == i)[0]
            regions = roi_align(tap, rois[here], self.output_size, 1 / stride, aligned=True)
            pooled = pooled.index_put((here,), regions)
        return pooled

    def _level(self, rois: Tensor) -> Tensor:
        side = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp(min=1e-6).sqrt()
        wanted = torch.floor(torch.log2(side / (CANONICAL_STRIDES * self.strides[0])) + 1e-6)
        return wanted.clamp(0, len(self.strides) - 1).to(torch.int64)


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw probabilities (N, m, m) inside boxes (N, 4) px as bool masks (N, rows, cols).

    Sampled at pixel centres, at sub-pixel box positions; the threshold is 0.5, outside is empty.
    """
    rows, cols = size
    x0, y0, x1, y1 = boxes.float()[:, :, None].unbind(1)  # (N, 1) each
    across = (torch.arange(cols, device=boxes.device) + 0.5 - x0) / (x1 - x0).clamp(min=1e-6)
    down = (torch.arange(rows, device=boxes.device) + 0.5 - y0) / (y1 - y0).clamp(min=1e-6)
    grid = torch.stack(
        [
            (across * 2 - 1)[:, None, :].expand(-1, rows, -1),
            (down * 2 - 1)[:, :, None].expand(-1, -1, cols),
        ],
        dim=-1,
    )
    drawn = F.grid_sample(probabilities.float()[:, None], grid, align_corners=False)
    return drawn[:, 0] >= 0.5
