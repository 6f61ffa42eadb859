"""Random erasing: where, how often, with what, and by nothing but the image's key."""

import torch
from torch import Tensor

from contramask.draws import image_keys
from contramask.transfer.erasing import RandomErasing

CPU = torch.device("cpu")


def erased(probability: float, count: int = 2000, size: tuple[int, int] = (20, 30)) -> Tensor:
    """What is left of images of sevens."""
    images = torch.full((count, 2, *size), 7.0)
    erase = RandomErasing(probability, 2, size, CPU)
    return erase(images, image_keys(0, 0, torch.arange(count)))


def test_share_area_and_shape_are_those_asked_for() -> None:
    gone = (erased(0.25) != 7).all(dim=1)
    areas = gone.sum(dim=(1, 2))
    assert abs(float((areas > 0).float().mean()) - 0.25) < 0.03
    shares = areas[areas > 0] / 600
    assert shares.min() > 0.015
    assert shares.max() < 0.35
    assert abs(float(shares.mean()) - 0.17) < 0.02
    for one in gone[areas > 0][:50]:
        high, wide = int(one.any(dim=1).sum()), int(one.any(dim=0).sum())
        assert high * wide == int(one.sum())  # a rectangle
        assert 0.25 < high / wide < 4
    places = gone.float().mean(dim=0)
    assert places.min() > 0  # every place is reached


def test_noise_is_normal_and_differs_between_images() -> None:
    left = erased(1.0)
    gone = (left != 7).all(dim=1)
    noise = left.transpose(0, 1)[:, gone]
    assert noise.mean().abs() < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
    assert gone.any(dim=(1, 2)).all()
    assert not torch.equal(left[0], left[1])


def test_it_depends_on_the_key_alone() -> None:
    erase = RandomErasing(0.5, 3, (16, 16), CPU)
    images = torch.zeros(8, 3, 16, 16)
    key = image_keys(3, 1, torch.arange(8))
    torch.manual_seed(1)
    first = erase(images, key)
    torch.manual_seed(2)
    assert torch.equal(erase(images[4:], key[4:]), first[4:])
    assert torch.equal(RandomErasing(0.0, 3, (16, 16), CPU)(images, key), images)
