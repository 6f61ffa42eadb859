"""Views against torchvision, and what each mode promises about its pair of views."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from contramask.data import views as views_module
from contramask.data.colour import ColourConfig
from contramask.data.crops import contrastive_crop, crop_inside, full_boxes, random_resized_crop
from contramask.data.resize import (
    Cut,
    apply_weights,
    crop_weights,
    cut_by_kernel,
    cut_by_matmul,
    resize_weights,
    to_float,
)
from contramask.data.scenes import photographs
from contramask.data.views import ViewConfig, ViewMaker, whole_images
from contramask.draws import image_keys, uniform
from contramask.typed import ConfigError, parse

NO_COLOUR = ColourConfig(jitter=0, grey=0, blur=0)
TOLERANCE = 0.01  # of 255
CROP, FLIP = 0, 1  # numbers of the streams of the first view


def noise_images(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(count + height)
    shape = (count, height, width, channels)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def keys(count: int, epoch: int = 0) -> Tensor:
    return image_keys(3, epoch, torch.arange(count))


def maker(mode: str, size: tuple[int, int], channels: int = 3, **given: object) -> ViewMaker:
    """A view maker whose normalisation does nothing, so that views are pixels in 0..255."""
    config = ViewConfig(**{"colour": NO_COLOUR, **given})
    return ViewMaker(config, mode, size, [0.0] * channels, [1 / 255] * channels)


@pytest.fixture(params=[cut_by_kernel, cut_by_matmul], ids=["kernel", "matmul"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Both ways to cut, the processor's and the accelerators'."""
    monkeypatch.setattr(views_module, "cut_for", lambda device: request.param)
    return request.param


def planes(images: Tensor, way: Cut) -> Tensor:
    """(B, C, H, W) of the numbers a way computes with, for the reference to do the same."""
    return images.permute(0, 3, 1, 2).contiguous() if way is cut_by_kernel else to_float(images)


def reference(pixels: Tensor, boxes: Tensor, flip: Tensor, out_size: tuple[int, int]) -> Tensor:
    """torchvision's crop, antialiased bicubic resize and flip, image by image."""
    height, width = pixels.shape[2:]
    scale = torch.tensor([width, height, width, height])
    views = []
    for image, (left, top, right, bottom), mirrored in zip(
        pixels, (boxes * scale).round().long().tolist(), flip, strict=True
    ):
        view = F.resized_crop(
            image,
            *(top, left, bottom - top, right - left),
            list(out_size),
            interpolation=InterpolationMode.BICUBIC,
            antialias=True,
        ).clamp(0, 255)
        views.append(view.flip(-1) if mirrored else view)
    return torch.stack(views).float()


def flips(key: Tensor, probability: float = 0.5) -> Tensor:
    return uniform(key, FLIP, 1)[:, 0] < probability


@pytest.mark.parametrize(
    ("in_size", "out_size", "edges"),
    [
        ((64, 64), (32, 32), (0, 0, 64, 64)),  # shrink
        ((64, 64), (96, 96), (5, 9, 40, 31)),  # enlarge
        ((40, 72), (32, 32), (3, 1, 70, 39)),  # shrink one way more than the other
        ((24, 90), (60, 20), (10, 4, 77, 19)),  # enlarge rows, shrink columns
        ((37, 53), (16, 64), (0, 0, 53, 37)),
        ((32, 32), (32, 32), (7, 8, 8, 9)),  # a single pixel
    ],
)
def test_views_equal_torchvisions_antialiased_bicubic(
    in_size: tuple[int, int], out_size: tuple[int, int], edges: tuple[int, int, int, int]
) -> None:
    pixels = to_float(noise_images(3, *in_size))
    rows, cols = in_size
    boxes = (torch.tensor(edges) / torch.tensor([cols, rows, cols, rows])).repeat(3, 1)
    still = torch.zeros(3, dtype=torch.bool)
    ours = apply_weights(pixels, *crop_weights(boxes, in_size, out_size, still))
    assert ours.shape == (3, 3, *out_size)
    assert (ours - reference(pixels, boxes, still, out_size)).abs().max() < TOLERANCE


def test_weights_sum_to_one_and_stay_inside_the_cut() -> None:
    weights = resize_weights(torch.tensor([4.0, 0.0]), torch.tensor([20.0, 32.0]), 32, 8)
    assert weights.shape == (2, 8, 32)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 8))
    assert not weights[0, :, :4].any()
    assert not weights[0, :, 20:].any()


def test_flip_mirrors_the_view() -> None:
    pixels = to_float(noise_images(2, 40, 56))
    boxes = torch.tensor([[0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0]])
    out = (24, 32)
    plain = crop_weights(boxes, (40, 56), out, torch.tensor([False, False]))
    mixed = crop_weights(boxes, (40, 56), out, torch.tensor([True, False]))
    view, mirrored = apply_weights(pixels, *plain), apply_weights(pixels, *mixed)
    torch.testing.assert_close(mirrored[0], view[0].flip(-1))
    assert torch.equal(mirrored[1], view[1])


def test_both_ways_agree_on_photographs() -> None:
    """Pillow's rounding and clipping between the two directions is all that tells them apart."""
    images = torch.from_numpy(np.stack([p[:200:2, :200:2] for p in photographs()]))
    key = keys(len(images))
    boxes, flip = random_resized_crop(key, CROP, (100, 100)), flips(key)
    cuts = [cut(images, boxes, (64, 64), flip).float() for cut in (cut_by_kernel, cut_by_matmul)]
    assert (cuts[0] - cuts[1]).abs().mean() < 0.5
    assert (cuts[0] - cuts[1]).abs().max() < 16


def test_the_kernel_gives_pillows_pixels() -> None:
    photos = np.stack([photo[:200, :150] for photo in photographs()])
    still = torch.zeros(len(photos), dtype=torch.bool)
    cut = cut_by_kernel(torch.from_numpy(photos), full_boxes(len(photos)), (64, 96), still)
    resized = [Image.fromarray(p).resize((96, 64), Image.Resampling.BICUBIC) for p in photos]
    expected = torch.from_numpy(np.stack([np.array(image) for image in resized]))
    distance = (cut.int() - expected.permute(0, 3, 1, 2).int()).abs()
    assert (distance > 1).float().mean() < 1e-3
    assert distance.max() <= 4


@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_single_is_a_random_resized_crop(size: tuple[int, int], way: Cut) -> None:
    images, key = noise_images(16, 40, 40), keys(16)
    made = maker("single", size)(images, key, None)
    assert set(made) == {"view"}
    boxes = random_resized_crop(key, CROP, (40, 40))
    expected = reference(planes(images, way), boxes, flips(key), size)
    assert (made["view"] - expected).abs().max() < TOLERANCE
    assert 0 < flips(key).sum() < 16


def master_of(images: Tensor, key: Tensor, size: tuple[int, int], way: Cut) -> Tensor:
    """The enlarged, flipped crop of which CMAE's two views are windows."""
    in_size = (images.shape[1], images.shape[2])
    boxes = random_resized_crop(key, CROP, in_size)
    return reference(planes(images, way), boxes, flips(key), size)


def find_window(master: Tensor, view: Tensor) -> tuple[int, int]:
    """The only (dy, dx) at which `view` (C, h, w) lies in `master` (C, H, W)."""
    height, width = view.shape[1:]
    windows = master.unfold(1, height, 1).unfold(2, width, 1)  # (C, rows, cols, h, w)
    distance = (windows - view[:, None, None]).abs().amax(dim=(0, 3, 4))
    places = (distance < TOLERANCE).nonzero()
    assert len(places) == 1, f"{len(places)} windows fit, the nearest by {distance.min():.3f}"
    return int(places[0, 0]), int(places[0, 1])


def test_cmae_parity_shifts_the_target_alone_within_one_master(way: Cut) -> None:
    images, key = noise_images(24, 40, 40), keys(24)
    views = maker("cmae_parity", (56, 56))  # a master of 64 px, shifts of 0..8
    made = views(images, key, None)
    master = master_of(images, key, (64, 64), way)
    assert (made["view"] - master[:, :, :56, :56]).abs().max() < TOLERANCE
    shifts = [find_window(*pair) for pair in zip(master, made["target_view"], strict=True)]
    rows, cols = zip(*shifts, strict=True)
    assert views.shift == 8
    assert min(rows + cols) >= 0
    assert max(rows + cols) <= 8
    assert len(set(rows)) > 3
    assert rows != cols


def test_symmetric_shift_moves_both_views(way: Cut) -> None:
    images, key = noise_images(12, 40, 40), keys(12)
    made = maker("symmetric_shift", (56, 56))(images, key, None)
    master = master_of(images, key, (64, 64), way)
    online = [find_window(*pair) for pair in zip(master, made["view"], strict=True)]
    target = [find_window(*pair) for pair in zip(master, made["target_view"], strict=True)]
    assert len(set(online)) > 3
    assert len(set(target)) > 3
    assert online != target


def test_target_offsets_of_symmetric_shift_are_those_of_parity() -> None:
    images, key = noise_images(6, 32, 32), keys(6)
    parity = maker("cmae_parity", (56, 56))(images, key, None)
    symmetric = maker("symmetric_shift", (56, 56))(images, key, None)
    assert torch.equal(parity["target_view"], symmetric["target_view"])


def test_same_view_is_one_view_twice() -> None:
    images, key = noise_images(8, 32, 32), keys(8)
    made = maker("same_view", (32, 32))(images, key, None)
    parity = maker("cmae_parity", (32, 32))(images, key, None)
    torch.testing.assert_close(made["view"], made["target_view"], atol=1e-3, rtol=0)
    assert torch.equal(made["view"], parity["view"])


def test_without_shift_and_colour_parity_gives_identical_views() -> None:
    images, key = noise_images(8, 32, 32), keys(8)
    made = maker("cmae_parity", (32, 32), pixel_shift=0)(images, key, None)
    torch.testing.assert_close(made["view"], made["target_view"], atol=1e-3, rtol=0)


def test_independent_rrc_draws_crop_and_flip_twice() -> None:
    images, key = noise_images(32, 40, 40), keys(32)
    made = maker("independent_rrc", (32, 32))(images, key, None)
    single = maker("single", (32, 32))(images, key, None)
    assert torch.equal(made["view"], single["view"])
    far = (made["view"] - made["target_view"]).abs().amax(dim=(1, 2, 3))
    assert (far > 10).all()
    gradient = torch.arange(40, dtype=torch.uint8).expand(32, 40, 40)[..., None].repeat(1, 1, 1, 3)
    made = maker("independent_rrc", (32, 32))(gradient, key, None)
    mirrored = [(v[:, 0, 0, -1] < v[:, 0, 0, 0]) for v in (made["view"], made["target_view"])]
    assert 4 < (mirrored[0] != mirrored[1]).sum() < 28


@pytest.mark.parametrize("mode", ["cmae_parity", "symmetric_shift", "same_view", "independent_rrc"])
def test_colours_change_the_target_view_alone(mode: str) -> None:
    """As CMAE and MoCo's kin: what is reconstructed keeps the colours of the image."""
    images, key = noise_images(8, 32, 32), keys(8)
    plain = maker(mode, (32, 32))(images, key, None)
    altered = maker(mode, (32, 32), colour=ColourConfig(jitter=1))(images, key, None)
    assert torch.equal(altered["view"], plain["view"])
    change = (altered["target_view"] - plain["target_view"]).abs().amax(dim=(1, 2, 3))
    assert (change > 5).all()


@pytest.mark.parametrize("shift", [31, 32])
def test_offsets_cover_zero_to_p_inclusive(shift: int, way: Cut) -> None:
    views = maker("cmae_parity", (224, 224), pixel_shift=shift)
    assert views.master == (256, 256)
    offsets = views._offsets(keys(20_000), 2)
    assert offsets.shape == (20_000, 2)
    for axis in offsets.T:
        counts = torch.bincount(axis)
        assert len(counts) == shift + 1
        assert (counts / 20_000 - 1 / (shift + 1)).abs().max() < 0.006
    # The outermost window ends where the master ends.
    key = keys(20_000)[(offsets == shift).all(dim=1)][:1]
    images = noise_images(1, 64, 64)
    made = views(images, key, None)
    master = master_of(images, key, (256, 256), way)
    end = 224 + shift
    assert (made["target_view"] - master[:, :, shift:end, shift:end]).abs().max() < TOLERANCE
    assert made["target_view"].shape == (1, 3, 224, 224)


def test_lengths_scale_with_the_view() -> None:
    views = maker("cmae_parity", (32, 32))
    assert views.master == (37, 37)
    assert views.shift == 4
    assert maker("cmae_parity", (8, 8)).shift == 1


def test_a_shift_larger_than_the_master_leaves_room_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="pixel_shift 33 is more than master_size 256"):
        parse(ViewConfig, {"pixel_shift": 33}, "views")
    with pytest.raises(ConfigError, match=r"crop_ratio is written \[low, high\]"):
        parse(ViewConfig, {"crop_ratio": [2.0, 1.0]}, "views")
    with pytest.raises(ConfigError, match=r"views\.crop_scale"):
        parse(ViewConfig, {"crop_scale": [0.9, 0.5]}, "views")


@pytest.mark.parametrize("mode", ["single", "cmae_parity", "symmetric_shift", "independent_rrc"])
def test_a_view_depends_on_its_key_alone(mode: str) -> None:
    images, key = noise_images(8, 32, 32), keys(8)
    views = maker(mode, (32, 32), colour=ColourConfig())
    whole = views(images, key, None)
    again = views(images.flip(0), key.flip(0), None)
    other = views(images, keys(8, epoch=1), None)
    for name, view in whole.items():
        torch.testing.assert_close(again[name].flip(0), view)
        alone = views(images[5:6], key[5:6], None)[name]
        torch.testing.assert_close(alone[0], view[5], atol=1e-3, rtol=0)
        assert not torch.allclose(other[name], view)


@pytest.mark.parametrize("crop", ["boxes", "inside_boxes", "full_box"])
def test_box_policies_crop_as_crops_py_says(crop: str, way: Cut) -> None:
    images, key = noise_images(8, 40, 40), keys(8)
    boxes = torch.tensor([0.1, 0.5, 0.5, 0.9]).repeat(8, 1)
    scale = (0.3, 0.9)
    views = maker("single", (32, 32), crop=crop, crop_scale=scale, box_alpha=0.4, box_margin=0.2)
    ratio = (3 / 4, 4 / 3)
    expected = {
        "boxes": contrastive_crop(key, CROP, (40, 40), boxes, scale, ratio, 0.4),
        "inside_boxes": crop_inside(key, CROP, (40, 40), boxes, scale, ratio, 0.2),
        "full_box": contrastive_crop(key, CROP, (40, 40), full_boxes(8), scale, ratio, 0.4),
    }[crop]
    made = views(images, key, boxes)["view"]
    expected = reference(planes(images, way), expected, flips(key), (32, 32))
    assert (made - expected).abs().max() < TOLERANCE
    assert views.config.needs_boxes == (crop != "full_box")


@pytest.mark.parametrize("crop", ["boxes", "inside_boxes"])
def test_box_policies_without_boxes_say_what_to_do(crop: str) -> None:
    with pytest.raises(ValueError, match="needs a box set; run `crop_boxes` first"):
        maker("single", (32, 32), crop=crop)(noise_images(2, 32, 32), keys(2), None)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("mode", ["single", "cmae_parity", "independent_rrc"])
def test_any_number_of_channels(channels: int, mode: str) -> None:
    images = noise_images(4, 24, 40, channels)
    views = maker(mode, (24, 40), channels, colour=ColourConfig(jitter=1, grey=1, blur=1))
    for view in views(images, keys(4), None).values():
        assert view.shape == (4, channels, 24, 40)
        assert view.isfinite().all()


def test_normalisation_and_its_inverse() -> None:
    images = noise_images(4, 16, 16)
    views = ViewMaker(ViewConfig(), "single", (16, 16), [0.5, 0.4, 0.3], [0.2, 0.25, 0.3])
    pixels = to_float(images)
    view = views.normalise(pixels)
    torch.testing.assert_close(view[:, 1], (pixels[:, 1] / 255 - 0.4) / 0.25)
    assert torch.equal(views.to_pixels(view), images)


def test_whole_images_are_resized_only_if_need_be(way: Cut) -> None:
    images = noise_images(3, 20, 28)
    assert torch.equal(whole_images(images, (20, 28)), to_float(images))
    still = torch.zeros(3, dtype=torch.bool)
    expected = reference(planes(images, way), full_boxes(3), still, (32, 32))
    assert (whole_images(images, (32, 32)) - expected).abs().max() < TOLERANCE


def test_pixels_stay_exact_where_the_network_computes_in_bf16() -> None:
    images = noise_images(2, 20, 28)
    exact = whole_images(images, (32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(whole_images(images, (32, 32)), exact)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_weak_strong_is_one_plain_crop_whose_target_changes_colour(size: tuple[int, int]) -> None:
    """Geometry is the same to the last bit; the crop is that of a method with a single view."""
    images, key = noise_images(8, 32, 32), keys(8)
    plain = maker("weak_strong", size)(images, key, None)
    assert torch.equal(plain["view"], maker("single", size)(images, key, None)["view"])
    torch.testing.assert_close(plain["view"], plain["target_view"], atol=1e-3, rtol=0)
    strong = maker("weak_strong", size, colour=ColourConfig(jitter=1))(images, key, None)
    assert torch.equal(strong["view"], plain["view"])
    assert not torch.allclose(strong["target_view"], plain["target_view"], atol=1)
