"""Classical heat maps: range, symmetry, constant images, odd shapes and channel counts."""

import numpy as np
import pytest

from contramask.boxes.heatmaps import PRODUCERS, box_maps, stretch

GRID = 16


def noise_images(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def rectangle_images() -> np.ndarray:
    images = np.full((2, 64, 64, 3), 40, dtype=np.uint8)
    images[0, 12:36, 8:28] = 220
    images[1, 30:52, 26:58] = (40, 90, 200)
    return images


@pytest.fixture(params=sorted(PRODUCERS))
def producer(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    return PRODUCERS[request.param]


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (1, 1), (1, 64), (300, 20), (17, 33)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_maps_of_any_shape_are_finite_and_in_range(producer, size, channels) -> None:  # type: ignore[no-untyped-def]
    maps = producer(noise_images(3, *size, channels), GRID)
    assert maps.shape == (3, GRID, GRID)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1


@pytest.mark.parametrize("level", [0, 7, 128, 255])
def test_a_constant_image_has_an_empty_map(producer, level: int) -> None:  # type: ignore[no-untyped-def]
    assert not producer(np.full((2, 48, 64, 3), level, dtype=np.uint8), GRID).any()


def test_a_mirrored_image_has_the_mirrored_map(producer) -> None:  # type: ignore[no-untyped-def]
    images = np.concatenate([noise_images(4, 64, 64), rectangle_images()])
    maps = producer(images, GRID)
    assert np.allclose(producer(images[:, :, ::-1], GRID), maps[:, :, ::-1], atol=2e-3)
    assert np.allclose(producer(images[:, ::-1], GRID), maps[:, ::-1], atol=2e-3)


def test_an_image_is_judged_alone(producer) -> None:  # type: ignore[no-untyped-def]
    images = noise_images(64, 32, 32)
    together = producer(images, GRID)
    alone = np.concatenate([producer(images[i : i + 1], GRID) for i in range(64)])
    assert np.allclose(alone, together, atol=1e-3)


def test_the_hot_spot_is_on_the_object(producer) -> None:  # type: ignore[no-untyped-def]
    maps = producer(rectangle_images(), GRID)
    for one, (top, bottom, left, right) in zip(
        maps, [(12, 36, 8, 28), (30, 52, 26, 58)], strict=True
    ):
        row, col = np.unravel_index(one.argmax(), one.shape)
        assert top - 4 <= (row + 0.5) * 4 <= bottom + 4
        assert left - 4 <= (col + 0.5) * 4 <= right + 4


def test_edges_of_colour_alone_count() -> None:
    image = np.full((1, 64, 64, 3), (200, 100, 0), dtype=np.uint8)
    image[:, 20:44, 20:44] = (100, 200, 0)  # the same mean brightness
    maps = PRODUCERS["edge_energy"](image, GRID)
    assert maps[0, 5:11, 5:11].mean() > 2 * maps[0, :3].mean()


def test_stretch_reaches_both_ends_and_empties_constants() -> None:
    maps = stretch(np.stack([np.linspace(3, 5, 16).reshape(4, 4), np.full((4, 4), 2.0)]))
    assert (maps[0].min(), maps[0].max()) == (0, 1)
    assert not maps[1].any()


def test_drawn_boxes_cover_their_area() -> None:
    boxes = np.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 1.0], [0.1, 0.1, 0.33, 0.9]], np.float32)
    maps = box_maps(boxes, 8)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert maps.mean(axis=(1, 2)) == pytest.approx(area, abs=1e-6)
    assert maps[1, 4:, 2:6].all()
    assert maps[1].sum() == 16
