"""Cascade: stages ask for more overlap, start from moved boxes, and train without objects, too."""

import pytest
import torch

from contramask.models.cascade import CascadeRoIHeads
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.mask_rcnn import DetectorConfig, FasterRCNN, MaskRCNN, windowed

CONFIG = DetectorConfig(
    cascade=True,
    channels=8,
    box_hidden=16,
    roi_samples=16,
    train_proposals=20,
    test_proposals=10,
    score_threshold=0.0,
)


def detector(kind: type[FasterRCNN], config: DetectorConfig = CONFIG) -> FasterRCNN:
    torch.manual_seed(0)
    sizes = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
    return kind(windowed(build_encoder(sizes, (32, 32), 3), config), 3, config)


def one_object() -> dict[str, torch.Tensor]:
    masks = torch.zeros(1, 32, 32, dtype=torch.uint8)
    masks[0, 4:20, 6:24] = 1
    box = torch.tensor([[6.0, 4.0, 24.0, 20.0]])
    return {"boxes": box, "labels": torch.tensor([2]), "masks": masks}


def no_object() -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 32, 32, dtype=torch.uint8),
    }


def heads_of(net: FasterRCNN) -> CascadeRoIHeads:
    assert isinstance(net.roi_heads, CascadeRoIHeads)
    return net.roi_heads


@pytest.mark.parametrize("kind", [FasterRCNN, MaskRCNN])
def test_each_stage_has_a_loss_and_a_gradient(kind: type[FasterRCNN]) -> None:
    net = detector(kind).train()
    losses = net(torch.randn(2, 3, 32, 32), [one_object(), no_object()])
    stages = {f"loss_{part}_stage{n}" for part in ("classifier", "box_reg") for n in range(3)}
    assert stages <= set(losses)
    assert ("loss_mask" in losses) == (kind is MaskRCNN)
    total = torch.stack(list(losses.values())).sum()
    assert torch.isfinite(total)
    total.backward()
    assert all(p.grad is not None for p in net.roi_heads.parameters())


def test_images_without_objects_train() -> None:
    losses = detector(MaskRCNN).train()(torch.randn(2, 3, 32, 32), [no_object(), no_object()])
    assert all(torch.isfinite(value) for value in losses.values())
    assert float(losses["loss_box_reg_stage2"].detach()) == 0


def test_detections_come_with_scores_that_are_mean_shares() -> None:
    net = detector(MaskRCNN).eval()
    with torch.no_grad():
        found = net.detect(torch.randn(2, 3, 32, 32))
    assert len(found) == 2
    for one in found:
        assert one["boxes"].shape[1:] == (4,)
        assert one["masks"].shape[1:] == (1, 28, 28)
        assert one["labels"].min() >= 1
        # Untrained, each of four classes has about a quarter.
        assert one["scores"].mean() == pytest.approx(0.25, abs=0.15)


def test_later_stages_ask_for_more_overlap() -> None:
    heads = heads_of(detector(FasterRCNN))
    target = {"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([3])}
    # 0.55, 0.65 and 0.8 of the object
    boxes = torch.tensor([[0.0, 0, 10, 5.5], [0, 0, 10, 6.5], [0, 0, 10, 8], [5, 5, 5, 9]])
    labels = [heads._matched(n, [boxes], [target])[1][0].tolist() for n in range(3)]
    assert labels == [[3, 3, 3, 0], [0, 3, 3, 0], [0, 0, 3, 0]]


def test_boxes_move_by_the_stages_corrections_and_stay_inside() -> None:
    heads = heads_of(detector(FasterRCNN))
    boxes = [torch.tensor([[10.0, 10, 20, 20]])]
    still = heads._moved(0, torch.zeros(1, 4), boxes, [(32, 32)])[0]
    torch.testing.assert_close(still, boxes[0])
    shift = torch.tensor([[10.0, 0, 0, 0]])  # a tenth of ten widths: one width
    assert heads._moved(0, shift, boxes, [(32, 32)])[0].tolist() == [[20, 10, 30, 20]]
    assert heads._moved(1, shift, boxes, [(32, 32)])[0].tolist() == [[15, 10, 25, 20]]
    outside = heads._moved(0, 3 * shift, boxes, [(32, 32)])[0]
    assert outside.max() <= 32


def test_it_learns_one_box() -> None:
    """Trained on one image, its best box comes to lie on the object."""
    torch.manual_seed(0)
    net = detector(FasterRCNN, CONFIG).train()
    image = torch.zeros(1, 3, 32, 32)
    image[..., 4:20, 6:24] = 2
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        torch.stack(list(net(image, [one_object()]).values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        best = net.eval().detect(image)[0]
    assert best["labels"][0] == 2
    assert best["scores"][0] > 0.5
    torch.testing.assert_close(best["boxes"][0], one_object()["boxes"][0], atol=3, rtol=0)


def test_a_windowed_backbone_under_a_cascade() -> None:
    config = DetectorConfig(cascade=True, window=2, channels=8, box_hidden=16, roi_samples=8)
    net = detector(MaskRCNN, config).train()
    losses = net(torch.randn(1, 3, 32, 32), [one_object()])
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in net.encoder.parameters())
