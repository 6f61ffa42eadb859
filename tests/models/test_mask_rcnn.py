"""Mask R-CNN on a plain encoder: losses, empty images, learning, detections of the right form."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.models.mask_rcnn import DetectorConfig, FasterRCNN, MaskRCNN
from contramask.typed import ConfigError, parse

SMALL = DetectorConfig(
    channels=16,
    train_proposals=20,
    test_proposals=20,
    rpn_samples=32,
    roi_samples=16,
    box_hidden=32,
    mask_convs=1,
    max_detections=10,
)
LOSSES = {
    *("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"),
}


def encoder_for(image_size: tuple[int, int]) -> VisionEncoder:
    torch.manual_seed(0)
    config = EncoderConfig(patch_size=4, embed_dim=24, depth=2, num_heads=2)
    return build_encoder(config, image_size, 3)


def squares(count: int, size: int = 32) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Grey images; all but the last hold one bright square, class 1 if large, else class 2."""
    generator = torch.Generator().manual_seed(1)
    images, targets = 0.1 * torch.randn(count, 3, size, size, generator=generator), []
    for i in range(count):
        side = 16 if i % 2 else 9
        x, y = torch.randint(0, size - side, (2,), generator=generator).tolist()
        masks = torch.zeros(1, size, size, dtype=torch.uint8)
        masks[0, y : y + side, x : x + side] = 1
        images[i] += 2 * masks
        box = torch.tensor([[x, y, x + side, y + side]], dtype=torch.float32)
        targets.append({"boxes": box, "labels": torch.tensor([1 + i % 2]), "masks": masks})
    images[-1] = 0
    targets[-1] = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, size, size, dtype=torch.uint8),
    }
    return images, targets


def test_losses_are_finite_with_an_image_without_objects() -> None:
    net = MaskRCNN(encoder_for((32, 32)), 2, SMALL).train()
    images, targets = squares(4)
    losses = net(images, targets)
    assert set(losses) == LOSSES
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    idle = [
        name
        for name, parameter in net.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert idle == ["encoder.norm.weight", "encoder.norm.bias"]  # the map is taken before it


def test_losses_are_finite_when_no_image_has_an_object() -> None:
    net = MaskRCNN(encoder_for((32, 32)), 2, SMALL).train()
    images, targets = squares(3)
    losses = net(images, [targets[-1]] * 3)
    assert all(torch.isfinite(value) for value in losses.values())
    assert float(losses["loss_mask"].detach()) == 0


def test_it_learns_to_find_squares() -> None:
    images, targets = squares(6)
    config = replace(SMALL, scales=(2.0, 1.0), anchor_strides=4.0)
    net = MaskRCNN(encoder_for((32, 32)), 2, config).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for step in range(40):
        torch.manual_seed(step)
        loss = torch.stack(list(net(images, targets).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    with torch.no_grad():
        found = net.eval().detect(images)
    overlaps = [
        float(box_iou(image["boxes"], target["boxes"]).max()) if len(image["boxes"]) else 0.0
        for image, target in zip(found[:-1], targets[:-1], strict=True)
    ]
    assert sum(overlap > 0.5 for overlap in overlaps) >= 4


@pytest.mark.parametrize("image_size", [(32, 32), (24, 40), (20, 28)])
def test_detections_lie_inside_images_of_any_shape(image_size: tuple[int, int]) -> None:
    rows, cols = image_size
    net = MaskRCNN(encoder_for(image_size), 3, SMALL).eval()
    with torch.no_grad():
        found = net.detect(torch.randn(2, 3, rows, cols))
    assert len(found) == 2
    for image in found:
        count = len(image["scores"])
        assert count <= SMALL.max_detections
        assert image["masks"].shape == (count, 1, 28, 28)
        assert image["labels"].min() >= 1
        assert image["labels"].max() <= 3
        assert image["boxes"][:, [0, 2]].max() <= cols
        assert image["boxes"][:, [1, 3]].max() <= rows
        assert torch.equal(image["scores"], image["scores"].sort(descending=True).values)


def test_boxes_alone_need_no_masks() -> None:
    net = FasterRCNN(encoder_for((32, 32)), 2, SMALL).train()
    images, targets = squares(3)
    losses = net(images, [{k: t[k] for k in ("boxes", "labels")} for t in targets])
    assert set(losses) == LOSSES - {"loss_mask"}
    with torch.no_grad():
        assert set(net.eval().detect(images)[0]) == {"boxes", "labels", "scores"}


def test_bf16_autocast_keeps_boxes_and_scores_in_float32() -> None:
    net = MaskRCNN(encoder_for((32, 32)), 2, SMALL)
    images, targets = squares(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = net.train()(images, targets)
        found = net.eval().detect(images)
    assert all(torch.isfinite(value) for value in losses.values())
    assert {v.dtype for f in found for k, v in f.items() if k != "labels"} == {torch.float32}


def test_levels_finer_than_pixels_are_refused() -> None:
    config = EncoderConfig(patch_size=2, embed_dim=16, depth=1, num_heads=1)
    encoder = build_encoder(config, (16, 16), 3)
    with pytest.raises(ValueError, match="whole number"):
        MaskRCNN(encoder, 2, DetectorConfig(scales=(4.0, 2.0, 1.0, 0.5)))
    scales = (2.0, 1.0, 0.5)
    assert MaskRCNN(encoder, 2, DetectorConfig(scales=scales)).strides == (1, 2, 4, 8)


def test_global_blocks_without_windows_are_refused() -> None:
    with pytest.raises(ConfigError, match="set window"):
        parse(DetectorConfig, {"global_blocks": [2, 5]}, "detector")
