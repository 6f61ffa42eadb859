"""The user's transforms on one image: what the key fixes, how views differ, what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

from contramask.data.augment import (
    Alignment,
    Augmenter,
    TransformFailed,
    check_transforms,
    draw_keys,
    write_views,
)
from contramask.data.transforms import TransformsConfig
from contramask.data.views import ViewConfig, ViewMaker
from contramask.draws import image_keys

CROP: dict[str, Any] = {"name": "RandomResizedCrop", "size": [32, 32], "scale": [0.2, 1.0]}
FLIPS = ({"name": "HorizontalFlip"}, {"name": "VerticalFlip"})
GREY = {"name": "ToGray", "p": 1.0}
NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def keys(count: int, epoch: int = 0) -> np.ndarray:
    return draw_keys(image_keys(3, epoch, torch.arange(count)))


def one(config: TransformsConfig, views: int = 1, image: np.ndarray = NOISE) -> list[np.ndarray]:
    return Augmenter(config, views)(image, keys(1)[0].tolist())


def test_every_key_gives_another_view_and_the_same_one_always_the_same() -> None:
    # Crops are whole pixels, so now and then two are one and the same; noise never is.
    augmenter = Augmenter(TransformsConfig(view=(CROP, {"name": "GaussNoise", "p": 1.0})), 1)
    row = [augmenter(NOISE, key.tolist())[0].tobytes() for key in keys(200)]
    again = {
        i: augmenter(NOISE, key.tolist())[0].tobytes()
        for i, key in reversed(list(enumerate(keys(200))))
    }
    assert len(set(row)) == 200
    assert row == [again[i] for i in range(200)]
    later = {augmenter(NOISE, key.tolist())[0].tobytes() for key in keys(200, epoch=1)}
    assert not later & set(row)


def test_transforms_of_one_pipeline_draw_independently() -> None:
    """Seeded by albumentations' own `set_random_seed`, both flips always come together."""
    corner = np.zeros((2, 2, 1), dtype=np.uint8)
    corner[0, 0] = 1
    augmenter = Augmenter(TransformsConfig(view=FLIPS), 1)
    counts = np.zeros((2, 2))
    for key in keys(2000):
        counts += augmenter(corner, key.tolist())[0][..., 0]
    assert counts.sum() == 2000
    assert counts.min() > 430  # 500 expected, standard deviation 19


def test_two_views_have_two_draws() -> None:
    first, second = one(TransformsConfig(view=(CROP,)), views=2)
    assert not np.array_equal(first, second)


def test_what_is_shared_is_drawn_once() -> None:
    first, second = one(TransformsConfig(shared=(CROP,)), views=2)
    assert np.array_equal(first, second)
    first, second = one(TransformsConfig(shared=(CROP,), target_view=(GREY,)), views=2)
    assert not np.array_equal(first, second)
    assert np.ptp(second, axis=2).max() == 0  # the same crop, grey
    assert np.abs(second[..., 0].astype(float) - first @ [0.299, 0.587, 0.114]).max() < 1


def test_the_image_is_not_changed() -> None:
    image = NOISE.copy()
    one(TransformsConfig(view=({"name": "CoarseDropout", "p": 1.0},)), views=2, image=image)
    assert np.array_equal(image, NOISE)


def ramp(side: int) -> np.ndarray:
    """Red grows with x, green with y, by whole grey values; blue is a smooth hill."""
    place = np.arange(side) * (256 // side)
    x, y = np.meshgrid(place, place)
    hill = 255 * np.exp(-((x - 90.0) ** 2 + (y - 150.0) ** 2) / 5000)
    return np.stack([x, y, hill], axis=2).astype(np.uint8)


def measured(views: np.ndarray) -> dict[str, np.ndarray]:
    """What crop made each view (N, 32, 32, 3) of `ramp`, from its slopes; and its pixels."""
    red, green = views[:, 16, :, 0].astype(float), views[:, :, 16, 1].astype(float)
    inner = slice(6, 26)  # off the edges, where antialiasing bends the ramp
    place = np.arange(32)[inner]
    across = np.polyfit(place, red[:, inner].T, 1)[0]
    down = np.polyfit(place, green[:, inner].T, 1)[0]
    width, height = np.abs(across) * 32 / 256, np.abs(down) * 32 / 256
    return {
        "area": width * height,
        "aspect": np.log(width / height),
        "x": red[:, 15:17].mean(axis=1),
        "y": green[:, 15:17].mean(axis=1),
        "flip": (across < 0).astype(float),
        "mean": views.mean(axis=(1, 2, 3)),
        "deviation": views.astype(float).std(axis=(1, 2)).mean(axis=1),
    }


def test_the_same_crop_and_flip_have_the_built_in_paths_distribution() -> None:
    """RandomResizedCrop and HorizontalFlip, ours on the device and albumentations' in workers."""
    count, size = 4000, (32, 32)
    image, key = ramp(64), image_keys(0, 0, torch.arange(count))
    maker = ViewMaker(ViewConfig(), "single", size, [0.0] * 3, [1 / 255] * 3)
    batch = torch.from_numpy(image).expand(count, -1, -1, -1)
    ours = maker.to_pixels(maker(batch, key, None)["view"]).numpy()
    crop = {**CROP, "interpolation": "INTER_AREA"}
    augmenter = Augmenter(TransformsConfig(view=(crop, FLIPS[0])), 1)
    other = image_keys(1, 0, torch.arange(count))  # other draws: two samples of one distribution
    theirs = np.stack([augmenter(image, row)[0] for row in draw_keys(other).tolist()])
    found, expected = measured(theirs), measured(ours)
    assert abs(found.pop("flip").mean() - 0.5) < 0.03
    assert abs(expected.pop("flip").mean() - 0.5) < 0.03
    for name, values in found.items():
        spread = expected[name].std()
        # Means of 4,000 differ by 0.022 standard deviations; four of these.
        assert abs(values.mean() - expected[name].mean()) < 0.09 * spread, name
        shares = np.linspace(0.05, 0.95, 19)
        distance = np.quantile(values, shares) - np.quantile(expected[name], shares)
        assert np.abs(distance).max() < 0.2 * spread, name


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ((), "gave 40x40x3 uint8; the view must be 32x32x3"),
        (({"name": "Normalize"},), "float32; the view must be 32x32x3 uint8"),
        ((CROP, {"name": "RandomCrop", "height": 50, "width": 50}), "RandomCrop raised .*Error"),
    ],
)
def test_what_gives_no_view_is_refused_before_training(steps: Any, sentence: str) -> None:
    config = TransformsConfig(view=(FLIPS[0], *steps))
    with pytest.raises(ValueError, match=f"tried on noise of 40x40x3: .*{sentence}"):
        check_transforms(config, 1, "free", (40, 40, 3), (32, 32, 3))


@pytest.mark.parametrize("alignment", ["free", "same_place"])
def test_views_compared_place_by_place_may_not_move(alignment: Alignment) -> None:
    moving = TransformsConfig(view=(CROP, GREY))
    still = TransformsConfig(shared=(CROP,), view=(GREY,))
    sizes = ((40, 40, 3), (32, 32, 3))
    check_transforms(still, 2, alignment, *sizes)
    if alignment == "free":
        check_transforms(moving, 2, alignment, *sizes)
        return
    with pytest.raises(ValueError, match=r"view moves pixels \(RandomResizedCrop\).*`shared`"):
        check_transforms(moving, 2, alignment, *sizes)


def test_a_second_views_transforms_need_a_second_view() -> None:
    config = TransformsConfig(view=(CROP,), target_view=(GREY,))
    with pytest.raises(ValueError, match="the method sees one view"):
        check_transforms(config, 1, "free", (40, 40, 3), (32, 32, 3))


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_channels_are_kept(channels: int) -> None:
    image = np.zeros((40, 48, channels), dtype=np.uint8)
    slot = np.ones((32, 32, channels), dtype=np.uint8)
    augmenter = Augmenter(TransformsConfig(view=(CROP, FLIPS[0])), 1)
    write_views(augmenter, image, keys(1)[0], [slot])
    assert slot.max() == 0
    with pytest.raises(TransformFailed, match="the last transform gave 32x32x"):
        write_views(augmenter, image, keys(1)[0], [slot[:16]])
