"""Crop sampling against torchvision and the published geometry of ContrastiveCrop."""

import math

import numpy as np
import pytest
import torch
from scipy.special import betaincinv
from scipy.stats import ks_2samp
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from contramask.data import crops
from contramask.draws import image_keys, uniform

COUNT = 16_000
SIZE = (224, 224)
CENTRED = (0.3, 0.3, 0.7, 0.7)
OFF_CENTRE = (0.10, 0.55, 0.45, 0.90)


@pytest.fixture(scope="module")
def key() -> Tensor:
    return image_keys(0, 0, torch.arange(COUNT))


def repeat(box: tuple[float, ...], count: int = COUNT) -> Tensor:
    return torch.tensor(box).repeat(count, 1)


def area(box: Tensor) -> Tensor:
    return (box[:, 2] - box[:, 0]).clamp(min=0) * (box[:, 3] - box[:, 1]).clamp(min=0)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    return area(
        torch.cat([torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])], 1)
    )


def statistics(one: Tensor, two: Tensor, target: tuple[float, ...]) -> tuple[float, ...]:
    """Pair IoU, coverage, object share of the crop, share of pairs in which a view misses it."""
    both, target = overlap(one, two), repeat(target, len(one))
    pair_iou = (both / (area(one) + area(two) - both)).mean()
    seen = torch.stack([overlap(view, target) for view in (one, two)])
    coverage = seen / area(target)
    share = seen / torch.stack([area(one), area(two)])
    miss = (coverage < 0.1).any(dim=0).float().mean()
    return pair_iou.item(), coverage.mean().item(), share.mean().item(), miss.item()


def torchvision_crops(size: tuple[int, int], count: int) -> np.ndarray:
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    draw = [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    return np.array(draw)  # top, left, height, width


@pytest.mark.parametrize("size", [(224, 224), (64, 160)])
def test_random_resized_crop_is_torchvisions(key: Tensor, size: tuple[int, int]) -> None:
    theirs = torchvision_crops(size, 5000)
    rows, cols = size
    box = crops.random_resized_crop(key, 3, size).numpy() * [cols, rows, cols, rows]
    box = np.rint(box)
    ours = np.stack([box[:, 1], box[:, 0], box[:, 3] - box[:, 1], box[:, 2] - box[:, 0]], axis=1)

    def measures(c: np.ndarray) -> list[np.ndarray]:
        top, left, height, width = c.T.astype(float)
        room = [top / np.maximum(rows - height, 1), left / np.maximum(cols - width, 1)]
        return [height * width, np.log(width / height), top, left, *room]

    for mine, other in zip(measures(ours), measures(theirs), strict=True):
        assert ks_2samp(mine, other).pvalue > 1e-3


def test_crops_are_whole_pixels_of_the_right_area_and_shape(key: Tensor) -> None:
    box = crops.random_resized_crop(key, 0, (96, 160)).double() * torch.tensor([160, 96, 160, 96])
    assert (box - box.round()).abs().max() < 1e-4
    width, height = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    assert (width * height / (96 * 160)).min() > 0.19
    assert (width / height).min() > 0.73
    assert (width / height).max() < 1.37


def test_full_box_with_alpha_one_is_random_resized_crop(key: Tensor) -> None:
    plain = crops.random_resized_crop(key, 0, SIZE)
    full = crops.contrastive_crop(key, 1, SIZE, crops.full_boxes(COUNT), alpha=1.0)
    for column in range(4):
        assert (plain[:, column].mean() - full[:, column].mean()).abs() < 0.01
    assert ks_2samp(area(plain), area(full)).pvalue > 1e-3


# An independent simulation, 30,000 crops a cell: (pair IoU, coverage, share) of the centred object,
# then (coverage, pair miss) of the off-centre one.
FIXTURES = {
    "plain": (0.505, 0.913, 0.299, 0.681, 0.147),
    "full box, alpha 1": (0.509, 0.916, 0.300, 0.685, 0.144),
    "full box, alpha 0.6": (0.479, 0.887, 0.285, 0.660, 0.197),
    "full box, alpha 0.1": (0.425, 0.813, 0.246, 0.608, 0.319),
    "half box, alpha 0.1": (0.428, 0.818, 0.249, 0.606, 0.322),
}
POLICIES = {
    "full box, alpha 1": ((0.0, 0.0, 1.0, 1.0), 1.0),
    "full box, alpha 0.6": ((0.0, 0.0, 1.0, 1.0), 0.6),
    "full box, alpha 0.1": ((0.0, 0.0, 1.0, 1.0), 0.1),
    "half box, alpha 0.1": ((0.25, 0.25, 0.75, 0.75), 0.1),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_pair_statistics_of_boxes_without_content(key: Tensor, name: str) -> None:
    if name == "plain":
        pair = [crops.random_resized_crop(key, stream, SIZE) for stream in (0, 1)]
    else:
        box, alpha = POLICIES[name]
        boxes = repeat(box)
        pair = [crops.contrastive_crop(key, stream, SIZE, boxes, alpha=alpha) for stream in (0, 1)]
    centred = statistics(*pair, CENTRED)
    aside = statistics(*pair, OFF_CENTRE)
    found = (*centred[:3], aside[1], aside[3])
    assert found == pytest.approx(FIXTURES[name], abs=0.012)


@pytest.mark.parametrize(
    ("box", "alpha", "pair_iou", "coverage", "miss"),
    [
        (CENTRED, 1.0, 0.517, 0.934, 0.0),
        (OFF_CENTRE, 1.0, 0.606, 0.968, 0.0),
        (CENTRED, 0.6, 0.493, 0.912, 0.0),
        (OFF_CENTRE, 0.6, 0.600, 0.961, 0.0),
    ],
)
def test_pair_statistics_of_true_boxes(
    key: Tensor, box: tuple[float, ...], alpha: float, pair_iou: float, coverage: float, miss: float
) -> None:
    boxes = repeat(box)
    pair = [crops.contrastive_crop(key, s, SIZE, boxes, alpha=alpha) for s in (0, 1)]
    found = statistics(*pair, box)
    assert (found[0], found[1]) == pytest.approx((pair_iou, coverage), abs=0.012)
    assert found[3] == pytest.approx(miss, abs=0.03)


@pytest.mark.parametrize(
    ("margin", "scale", "centred", "aside"),
    [
        (0.5, (0.2, 1.0), (0.505, 0.878, 0.441), (0.833, 0.515)),
        (0.2, (0.5, 1.0), (0.688, 0.931, 0.700), (0.928, 0.703)),
    ],
)
def test_pair_statistics_inside_true_boxes(
    key: Tensor,
    margin: float,
    scale: tuple[float, float],
    centred: tuple[float, ...],
    aside: tuple[float, ...],
) -> None:
    def pair(box: tuple[float, ...]) -> list[Tensor]:
        boxes = repeat(box)
        return [crops.crop_inside(key, s, SIZE, boxes, scale=scale, margin=margin) for s in (0, 1)]

    assert statistics(*pair(CENTRED), CENTRED)[:3] == pytest.approx(centred, abs=0.015)
    found = statistics(*pair(OFF_CENTRE), OFF_CENTRE)
    assert found[1:3] == pytest.approx(aside, abs=0.015)
    assert found[3] == 0.0


@pytest.mark.parametrize(
    ("alpha", "std", "middle"), [(0.1, 0.456, 0.096), (0.6, 0.337, 0.374), (1.0, 0.289, 0.498)]
)
def test_beta_draws(key: Tensor, alpha: float, std: float, middle: float) -> None:
    draws = crops.beta_from_uniform(uniform(key, 7, 4), alpha)
    assert draws.std().item() == pytest.approx(std, abs=0.003)
    assert draws.std().item() == pytest.approx(1 / math.sqrt(4 * (2 * alpha + 1)), abs=0.003)
    assert ((draws - 0.5).abs() < 0.25).float().mean().item() == pytest.approx(middle, abs=0.006)


@pytest.mark.parametrize(
    ("alpha", "bound"),
    [(0.05, 2e-6), (0.1, 2e-6), (0.6, 2e-6), (0.8, 4e-6), (1.5, 5e-4), (2, 3e-3)],
)
def test_beta_table_error_is_the_stated_one(key: Tensor, alpha: float, bound: float) -> None:
    noise = torch.cat([uniform(key, 8, 2).flatten(), torch.tensor([0.0, 0.5, 1.0])])
    found = crops.beta_from_uniform(noise, alpha)
    exact = betaincinv(alpha, alpha, noise.double().numpy())
    assert np.abs(found.double().numpy() - exact).max() < bound
    assert found[-3:].tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    "draw", [crops.contrastive_crop, crops.crop_inside], ids=lambda draw: draw.__name__
)
@pytest.mark.parametrize("size", [(64, 64), (1, 1), (1, 300), (17, 224)])
def test_a_crop_never_leaves_the_image(draw, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    count = 100_000 if size == (64, 64) else 5_000
    key = image_keys(1, 2, torch.arange(count))
    corners = uniform(key, 9, 4)
    boxes = torch.cat(
        [
            torch.minimum(corners[:, :2], corners[:, 2:]),
            torch.maximum(corners[:, :2], corners[:, 2:]),
        ],
        dim=1,
    )
    boxes[: count // 10, 2:] = 1.0  # the corner at which the reference once left the image
    box = draw(key, 0, size, boxes, (0.08, 1.0))
    assert box.dtype == torch.float32
    assert box.min() >= 0
    assert box.max() <= 1
    smallest = torch.tensor([1 / size[1], 1 / size[0]]) - 1e-6
    assert ((box[:, 2:] - box[:, :2]) >= smallest).all()


def test_the_centre_is_inside_the_box_unless_the_border_is_in_the_way(key: Tensor) -> None:
    boxes = repeat(CENTRED)
    box = crops.contrastive_crop(key, 0, SIZE, boxes, scale=(0.05, 0.3))
    middle = (box[:, :2] + box[:, 2:]) / 2
    assert middle.min() > 0.3 - 0.5 / 224
    assert middle.max() < 0.7 + 0.5 / 224


def test_an_inside_crop_stays_in_the_grown_box(key: Tensor) -> None:
    box = crops.crop_inside(key, 0, (100, 100), repeat(OFF_CENTRE), margin=0.2)
    low, high = box.min(dim=0).values, box.max(dim=0).values
    # grown by a fifth of 0.35 on each side: 0.03, 0.48, 0.52, 0.97
    assert low.tolist()[:2] == pytest.approx([0.03, 0.48])
    assert high.tolist()[2:] == pytest.approx([0.52, 0.97])


def test_boxes_with_no_room_for_any_try_are_cropped_centrally() -> None:
    key = image_keys(0, 0, torch.arange(64))
    box = crops.contrastive_crop(key, 0, (30, 300), repeat((0.0, 0.0, 0.1, 0.1), 64), (0.9, 1.0))
    assert torch.equal(box, torch.tensor([130 / 300, 0.0, 170 / 300, 1.0]).repeat(64, 1))


def test_draws_depend_on_key_and_stream_only(key: Tensor) -> None:
    boxes = repeat(CENTRED)
    whole = crops.contrastive_crop(key, 0, SIZE, boxes)
    part = crops.contrastive_crop(key[100:164], 0, SIZE, boxes[100:164])
    assert torch.equal(part, whole[100:164])
    assert not torch.equal(whole, crops.contrastive_crop(key, 1, SIZE, boxes))


def test_policies_share_the_crop_sizes_of_a_key(key: Tensor) -> None:
    plain = crops.random_resized_crop(key, 0, SIZE)
    centred = crops.contrastive_crop(key, 0, SIZE, repeat(OFF_CENTRE))
    assert torch.allclose(plain[:, 2:] - plain[:, :2], centred[:, 2:] - centred[:, :2], atol=1e-6)


def test_mistakes_are_named(key: Tensor) -> None:
    boxes = repeat(CENTRED)
    with pytest.raises(ValueError, match="crop scale"):
        crops.random_resized_crop(key, 0, SIZE, scale=(0.0, 1.0))
    with pytest.raises(ValueError, match="crop ratio"):
        crops.random_resized_crop(key, 0, SIZE, ratio=(2.0, 1.0))
    with pytest.raises(ValueError, match="alpha"):
        crops.contrastive_crop(key, 0, SIZE, boxes, alpha=0.0)
    with pytest.raises(ValueError, match="margin"):
        crops.crop_inside(key, 0, SIZE, boxes, margin=-0.1)
