"""From maps to boxes: both rules, every fallback, and how often a box restricts a crop."""

import numpy as np
import pytest
from scipy import ndimage

from contramask.boxes.heatmaps import stretch
from contramask.boxes.rules import (
    CORNERS,
    REFERENCE_RULE,
    RuleConfig,
    binding_share,
    enclosing_boxes,
    find_boxes,
)

GRID = 16


def hot_rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    maps = np.zeros((1, GRID, GRID), dtype=np.float32)
    maps[0, top:bottom, left:right] = 1
    return maps


def corners(maps: np.ndarray, rule: RuleConfig | None = None) -> np.ndarray:
    return find_boxes(maps, rule or RuleConfig())[CORNERS].to_numpy()


@pytest.mark.parametrize("rule", [RuleConfig(), REFERENCE_RULE, RuleConfig(threshold=0.35)])
@pytest.mark.parametrize("cells", [(4, 10, 3, 9), (0, 8, 0, 6), (7, 16, 10, 16)])
def test_a_bright_rectangle_is_found_within_one_cell(rule: RuleConfig, cells: tuple) -> None:  # type: ignore[type-arg]
    top, bottom, left, right = cells
    expected = np.array([left, top, right, bottom]) / GRID
    found = corners(hot_rectangle(*cells), rule)[0]
    assert np.abs(found - expected).max() <= 1 / GRID + 1e-6


def test_a_box_that_reaches_the_last_cell_ends_at_one() -> None:
    chosen = np.ones((2, 5, 7), dtype=bool)
    chosen[1] = False
    chosen[1, 2, 3:] = True
    boxes = enclosing_boxes(chosen)
    assert boxes[0].tolist() == [0, 0, 1, 1]
    assert boxes[1].tolist() == pytest.approx([3 / 7, 2 / 5, 1.0, 3 / 5])
    assert boxes[1, 2] == 1.0


def test_constant_maps_fall_back_to_the_whole_image() -> None:
    table = find_boxes(np.stack([np.zeros((GRID, GRID)), np.ones((GRID, GRID))]), RuleConfig())
    assert table["fallback_reason"].tolist() == ["constant_map"] * 2
    assert table["is_fallback"].all()
    assert table[CORNERS].to_numpy().tolist() == [[0, 0, 1, 1]] * 2
    assert table["score"].tolist() == [0, 0]
    assert table["heat_entropy"].tolist() == pytest.approx([1, 1])
    assert table["heat_peak_ratio"].tolist() == pytest.approx([1, 1])


def test_too_small_and_too_large_boxes_fall_back() -> None:
    speck = hot_rectangle(5, 7, 5, 7)
    cross = hot_rectangle(7, 9, 0, 16) + hot_rectangle(0, 16, 7, 9)
    rule = RuleConfig(smooth_sigma=0)
    table = find_boxes(np.concatenate([speck, np.clip(cross, 0, 1)]), rule)
    assert table["fallback_reason"].tolist() == ["too_small", "too_large"]
    assert table["box_area"].tolist() == [1, 1]
    lenient = RuleConfig(smooth_sigma=0, min_area=0, max_area=1)
    assert not find_boxes(np.concatenate([speck, cross]), lenient)["is_fallback"].any()


def test_mirrored_maps_give_mirrored_boxes() -> None:
    noise = np.random.default_rng(1).random((200, GRID, GRID))
    maps = stretch(ndimage.gaussian_filter(noise, (0, 1.5, 1.5)))
    x0, y0, x1, y1 = corners(maps).T
    assert np.allclose(corners(maps[:, :, ::-1]), np.stack([1 - x1, y0, 1 - x0, y1], axis=1))
    assert np.allclose(corners(maps[:, ::-1]), np.stack([x0, 1 - y1, x1, 1 - y0], axis=1))


def test_the_largest_component_is_taken_and_diagonals_do_not_connect() -> None:
    maps = hot_rectangle(1, 6, 1, 6) + hot_rectangle(6, 13, 6, 14)
    rule = RuleConfig(smooth_sigma=0)
    table = find_boxes(maps, rule)
    assert table["n_components"].tolist() == [2]
    assert table[CORNERS].to_numpy()[0].tolist() == [6 / 16, 6 / 16, 14 / 16, 13 / 16]
    every = RuleConfig(smooth_sigma=0, component="all")
    assert corners(maps, every)[0].tolist() == [1 / 16, 1 / 16, 14 / 16, 13 / 16]


def test_equally_large_components_are_told_apart_by_heat() -> None:
    left, right = hot_rectangle(2, 7, 1, 6), hot_rectangle(2, 7, 10, 15)
    maps = np.concatenate([left + 0.8 * right, 0.8 * left + right])
    rule = RuleConfig(smooth_sigma=0)
    assert corners(maps, rule)[:, 0].tolist() == [1 / 16, 10 / 16]


def test_the_hottest_cells_component_can_be_taken_instead_of_the_largest() -> None:
    maps = 0.8 * hot_rectangle(1, 9, 1, 9) + hot_rectangle(10, 14, 10, 14)
    rule = RuleConfig(smooth_sigma=0, component="peak")
    assert corners(maps, rule)[0].tolist() == [10 / 16, 10 / 16, 14 / 16, 14 / 16]
    assert corners(maps, RuleConfig(smooth_sigma=0))[0].tolist() == [1 / 16, 1 / 16, 9 / 16, 9 / 16]


def test_the_middle_of_the_mass_needs_no_threshold() -> None:
    rule = RuleConfig(smooth_sigma=0, component="mass")
    assert corners(hot_rectangle(2, 8, 4, 12), rule)[0].tolist() == [
        4 / 16,
        2 / 16,
        12 / 16,
        8 / 16,
    ]
    speck = hot_rectangle(2, 8, 4, 12)
    speck[0, 15, 15] = 1  # 2% of the heat
    assert corners(speck, rule)[0].tolist() == [4 / 16, 2 / 16, 12 / 16, 8 / 16]
    assert corners(speck, RuleConfig(smooth_sigma=0, component="all"))[0, 2:].tolist() == [1, 1]
    table = find_boxes(np.zeros((1, GRID, GRID), dtype=np.float32), rule)
    assert table["fallback_reason"].tolist() == ["constant_map"]


def test_images_of_a_batch_do_not_touch() -> None:
    noise = np.random.default_rng(2).random((64, GRID, GRID))
    maps = stretch(ndimage.gaussian_filter(noise, (0, 2, 2)))
    together = find_boxes(maps, RuleConfig())
    alone = [find_boxes(maps[i : i + 1], RuleConfig()) for i in range(len(maps))]
    for column in together:
        expected = [one[column].iloc[0] for one in alone]
        if column == "fallback_reason":
            assert together[column].tolist() == expected
        else:
            assert together[column].to_numpy(float) == pytest.approx(np.array(expected, float))


def test_score_is_the_mass_a_box_holds_beyond_chance() -> None:
    sharp = hot_rectangle(4, 12, 4, 12)
    table = find_boxes(np.concatenate([sharp, stretch(sharp + 0.25)]), RuleConfig(smooth_sigma=0))
    assert table["score"].iloc[0] == pytest.approx(1)
    cells, inside = 256, 64
    hazy = np.full((1, GRID, GRID), 0.2, dtype=np.float32)
    hazy[0, 4:12, 4:12] = 1
    hazy[0, 0, 0] = 0
    mass = inside / (inside + 0.2 * (cells - inside - 1))
    found = find_boxes(hazy, RuleConfig(smooth_sigma=0))["score"].iloc[0]
    assert found == pytest.approx((mass - 0.25) / 0.75, abs=1e-5)


@pytest.mark.parametrize(
    ("box", "scale", "share"),
    [
        ((0.25, 0.25, 0.75, 0.75), (0.2, 1.0), 0.13),
        ((0.25, 0.25, 0.75, 0.75), (0.08, 1.0), 0.26),
        ((0.3, 0.3, 0.7, 0.7), (0.2, 1.0), 0.32),
        ((0.3, 0.3, 0.7, 0.7), (0.08, 1.0), 0.43),
        ((0.0, 0.0, 0.82, 0.82), (0.2, 1.0), 0.00),
        ((0.0, 0.0, 0.82, 0.82), (0.08, 1.0), 0.09),
        ((0.1, 0.55, 0.45, 0.9), (0.2, 1.0), 1.00),
        ((0.0, 0.0, 1.0, 1.0), (0.08, 1.0), 0.00),
    ],
)
def test_binding_shares_of_the_method_notes(
    box: tuple[float, ...], scale: tuple[float, float], share: float
) -> None:
    found = binding_share(np.array([box], dtype=np.float32), (224, 224), scale)
    assert found[0] == pytest.approx(share, abs=0.05)  # 256 draws


def test_binding_share_counts_each_axis_of_a_narrow_image() -> None:
    boxes = np.array([[0.0, 0.0, 0.7, 1.0], [0.0, 0.0, 1.0, 0.7]], dtype=np.float32)
    wide, tall = binding_share(boxes, (64, 128)), binding_share(boxes, (128, 64))
    assert wide[0] == pytest.approx(tall[1], abs=0.06)
    assert wide[0] > wide[1]  # crops of a wide image leave more room sideways
