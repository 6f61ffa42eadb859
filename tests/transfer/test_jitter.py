"""Joint random placement: image, pixel classes and objects stay together."""

import pytest
import torch

from contramask.draws import image_keys
from contramask.transfer.jitter import (
    JitterConfig,
    Placement,
    boxes_around,
    draw_placement,
    draw_window,
    place_classes,
    place_images,
    place_objects,
    recolour,
)
from contramask.typed import ConfigError, parse

SIZE = (20, 28)


def placement(zoom: float, shift: tuple[float, float], is_flipped: bool) -> Placement:
    return Placement(
        torch.tensor([[zoom, zoom]]), torch.tensor([shift]), torch.tensor([is_flipped])
    )


def scene() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """One bright rectangle: as image (1, 1, H, W), as pixel classes and as an object."""
    rows, cols = SIZE
    mask = torch.zeros(1, rows, cols, dtype=torch.uint8)
    mask[0, 4:12, 6:20] = 1
    target = {
        "boxes": torch.tensor([[6.0, 4, 20, 12]]),
        "labels": torch.tensor([3]),
        "masks": mask,
    }
    return mask[None].float(), 7 * mask, target


def extent(mask: torch.Tensor) -> list[float]:
    rows, cols = torch.where(mask)
    return [float(v) for v in (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)]


@pytest.mark.parametrize(
    "where",
    [
        placement(1.0, (0.0, 0.0), is_flipped=False),
        placement(1.0, (0.0, 0.0), is_flipped=True),
        placement(0.5, (0.25, 0.5), is_flipped=False),
        placement(2.0, (-0.5, -0.2), is_flipped=True),
    ],
)
def test_boxes_masks_classes_and_pixels_move_alike(where: Placement) -> None:
    image, classes, target = scene()
    moved = place_objects(target, where, SIZE)
    seen = extent(moved["masks"][0])
    assert moved["boxes"][0].tolist() == seen
    without = {name: value for name, value in target.items() if name != "masks"}
    assert place_objects(without, where, SIZE)["boxes"][0].tolist() == pytest.approx(seen, abs=0.51)
    assert extent(place_images(image, where)[0, 0] > 0.5) == pytest.approx(seen, abs=1.01)
    semantic = place_classes(classes, where)[0]
    assert torch.equal(semantic == 7, moved["masks"][0] == 1)
    assert set(semantic.unique().tolist()) <= {0, 7, 255}
    assert moved["labels"].tolist() == [3]


def test_identity_changes_nothing() -> None:
    image, classes, target = scene()
    still = placement(1.0, (0.0, 0.0), is_flipped=False)
    assert torch.allclose(place_images(image, still), image, atol=1e-5)
    assert torch.equal(place_classes(classes, still), classes)
    assert torch.equal(place_objects(target, still, SIZE)["masks"], target["masks"])


def test_padding_is_ignored_and_mean_coloured() -> None:
    image, classes, _ = scene()
    small = placement(0.5, (0.0, 0.0), is_flipped=False)
    outside = place_classes(classes, small)[0] == 255
    assert outside.float().mean() == pytest.approx(0.75, abs=0.01)
    assert torch.equal(place_images(image + 5, small)[0, 0] == 0, outside)


def test_objects_pushed_out_of_sight_are_dropped() -> None:
    _, _, target = scene()
    gone = place_objects(target, placement(2.0, (-1.0, -1.0), is_flipped=False), SIZE)
    assert [len(gone[k]) for k in ("boxes", "labels", "masks")] == [1, 1, 1]
    gone = place_objects(target, placement(2.5, (-1.5, -1.5), is_flipped=False), SIZE)
    assert [len(gone[k]) for k in ("boxes", "labels", "masks")] == [0, 0, 0]
    assert gone["masks"].shape[1:] == SIZE
    nothing = {k: v[:0] for k, v in target.items()}
    still = placement(1.0, (0.0, 0.0), is_flipped=True)
    assert place_objects(nothing, still, SIZE)["boxes"].shape == (0, 4)


def blobs(count: int) -> torch.Tensor:
    """Irregular masks uint8 (count, *SIZE), some of them at the border, one empty."""
    generator = torch.Generator().manual_seed(5)
    rows, cols = SIZE
    y, x = torch.arange(rows)[:, None], torch.arange(cols)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([rows, cols])
    reach = 2 + 6 * torch.rand(count, 2, generator=generator)
    away = (y - centre[:, :1, None]) ** 2 / reach[:, :1, None] ** 2
    away = away + (x - centre[:, 1:, None]) ** 2 / reach[:, 1:, None] ** 2
    masks = (away + 0.5 * torch.rand(count, rows, cols, generator=generator) < 1).to(torch.uint8)
    masks[0] = 0
    return masks


def test_after_any_jitter_a_box_is_the_tight_box_of_its_mask() -> None:
    masks = blobs(12)
    target = {"boxes": boxes_around(masks), "labels": torch.arange(12), "masks": masks}
    drawn = draw_placement(
        image_keys(0, 0, torch.arange(150)), JitterConfig(scale=(0.1, 2.5), flip=0.5)
    )
    kept = 0
    for number in range(150):
        where = drawn[torch.tensor([number])]
        moved = place_objects(target, where, SIZE)
        assert len(moved["boxes"]) == len(moved["labels"]) == len(moved["masks"])
        assert [box.tolist() for box in moved["boxes"]] == [extent(m) for m in moved["masks"]]
        assert 0 not in moved["labels"].tolist()  # an empty mask is no object
        # What is dropped has less than two pixels of either side left.
        gone = sorted(set(range(1, 12)) - set(moved["labels"].tolist()))
        every = place_classes(
            masks, Placement(*(v.expand(12, *v.shape[1:]) for v in vars(where).values()))
        )
        assert all(
            min(e[2] - e[0], e[3] - e[1]) < 2
            for e in (extent(every[i] == 1) for i in gone if (every[i] == 1).any())
        )
        kept += len(moved["labels"])
    assert 300 < kept < 150 * 11


def test_draws_stay_in_range_and_depend_on_the_key_alone() -> None:
    config = JitterConfig(scale=(0.5, 2.0), flip=0.5)
    keys = image_keys(0, 3, torch.arange(500))
    drawn = draw_placement(keys, config)
    assert drawn.zoom.min() >= 0.5
    assert drawn.zoom.max() <= 2.0
    assert 0.4 < drawn.is_flipped.float().mean() < 0.6
    grown, shrunk = drawn.zoom > 1, drawn.zoom < 1
    # a crop lies inside the enlarged image, a shrunken image inside the frame
    assert (drawn.shift[grown] <= 0).all()
    assert ((drawn.shift + drawn.zoom)[grown] >= 1 - 1e-6).all()
    assert (drawn.shift[shrunk] >= 0).all()
    assert ((drawn.shift + drawn.zoom)[shrunk] <= 1 + 1e-6).all()
    again = draw_placement(keys[[7]], config)
    assert torch.equal(again.zoom[0], drawn.zoom[7])
    assert not JitterConfig(flip=0.5).is_idle
    assert JitterConfig().is_idle


def test_a_window_shows_a_part_and_attempts_move_it() -> None:
    rows, cols = SIZE
    image = torch.arange(rows * cols).float().reshape(1, 1, rows, cols) + 1
    key = image_keys(0, 0, torch.arange(1))
    config = JitterConfig()
    seen = []
    for attempt in range(3):
        where = draw_placement(key, config, (7 / cols, 5 / rows), attempt)
        cut = place_images(image, where, (5, 7))[0, 0]
        assert cut.shape == (5, 7)
        # Neighbours stay neighbours: the window is neither stretched nor turned.
        assert (cut.diff(dim=1)).allclose(torch.tensor(1.0), atol=1e-2)
        assert (cut.diff(dim=0)).allclose(torch.tensor(float(cols)), atol=1e-1)
        seen.append(float(cut[0, 0]))
    assert len(set(seen)) == 3
    classes = place_classes((image[:, 0] % 7).to(torch.uint8), where, (5, 7))
    assert classes.shape == (1, 5, 7)
    assert (classes != 255).all()


def test_windows_full_of_one_class_are_drawn_again() -> None:
    """The left three quarters are one class: most windows show nothing else at first."""
    semantic = torch.zeros(200, 16, 64, dtype=torch.uint8)
    semantic[:, :, 48:] = torch.arange(16, dtype=torch.uint8) + 1
    semantic[:, :2] = 255
    key = image_keys(1, 0, torch.arange(200))
    first = draw_placement(key, JitterConfig(), (0.5, 1.0))
    capped = draw_window(key, JitterConfig(), semantic, (0.5, 1.0), 0.75)

    def dull(where: Placement) -> float:
        seen = place_classes(semantic, where, (16, 32)).flatten(1)
        counted = (seen != 255).sum(dim=1)
        return float((((seen == 0).sum(dim=1) / counted) > 0.75).float().mean())

    assert dull(first) > 0.4
    assert dull(capped) < 0.05
    assert torch.equal(first.zoom, capped.zoom)


def test_what_shrinks_is_averaged_and_not_picked() -> None:
    """A fine checkerboard becomes its mean, not black or white."""
    board = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).float()[None, None]
    quarter = placement(0.25, (0.0, 0.0), is_flipped=False)
    averaged = place_images(board, quarter, halvings=2)[0, 0, 1:7, 1:7]
    torch.testing.assert_close(averaged, torch.full_like(averaged, 0.5))
    whole = placement(1.0, (0.0, 0.0), is_flipped=False)
    assert torch.allclose(place_images(board, whole, halvings=2), board, atol=1e-5)
    assert JitterConfig(scale=(0.1, 2.0)).halvings == 3
    assert JitterConfig(scale=(0.5, 2.0)).halvings == 1
    assert JitterConfig(scale=(1.0, 2.0)).halvings == 0


def test_a_window_larger_than_the_image_is_padded() -> None:
    key = image_keys(0, 0, torch.arange(4))
    where = draw_placement(key, JitterConfig(scale=(0.5, 0.5)), (0.8, 0.8))
    assert (where.zoom < 1).all()
    semantic = place_classes(torch.zeros(4, 10, 10, dtype=torch.uint8), where, (8, 8))
    assert set(semantic.unique().tolist()) == {0, 255}


def test_a_reversed_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="low <= high"):
        parse(JitterConfig, {"scale": [2.0, 0.5]}, "jitter")


def test_colours_change_only_where_asked_for() -> None:
    pixels = torch.randint(0, 256, (6, 4, 4, 3), dtype=torch.uint8)
    key = image_keys(0, 0, torch.arange(6))
    assert recolour(pixels, key, JitterConfig(flip=0.5)) is pixels
    changed = recolour(pixels, key, JitterConfig(photometric=True))
    assert not torch.equal(changed, pixels)
    assert JitterConfig(photometric=True).is_idle  # nothing moves
