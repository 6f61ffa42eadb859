"""The schedule against its closed form."""

import math
from itertools import pairwise

import pytest

from contramask.train.schedule import scaled_lr, warmup_cosine, warmup_poly, warmup_steps


def test_warm_up_is_a_straight_line_from_zero() -> None:
    assert [warmup_cosine(step, 100, 10) for step in range(11)] == pytest.approx(
        [step / 10 for step in range(11)]
    )


@pytest.mark.parametrize("min_factor", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 10])
def test_then_half_a_cosine(warmup: int, min_factor: float) -> None:
    for step in range(warmup, 101):
        angle = math.pi * (step - warmup) / (100 - warmup)
        expected = min_factor + (1 - min_factor) * (1 + math.cos(angle)) / 2
        assert warmup_cosine(step, 100, warmup, min_factor) == pytest.approx(expected)
    assert warmup_cosine(warmup, 100, warmup, min_factor) == 1
    assert warmup_cosine(100, 100, warmup, min_factor) == pytest.approx(min_factor)


def test_maes_rate_at_a_fractional_epoch() -> None:
    # 40 of 400 epochs of warm-up, base rate 1.5e-4 at batch 4096, half way through epoch 220.
    steps = 312
    factor = warmup_cosine(int(220.5 * steps), 400 * steps, 40 * steps)
    expected = 0.5 * (1 + math.cos(math.pi * (220.5 - 40) / 360))
    assert scaled_lr(1.5e-4, 4096) * factor == pytest.approx(2.4e-3 * expected)


def test_it_falls_all_the_way_and_stays_down() -> None:
    factors = [warmup_cosine(step, 50, 5) for step in range(5, 51)]
    assert all(a > b for a, b in pairwise(factors))
    assert warmup_cosine(60, 50, 5) == pytest.approx(0)


def test_warm_up_as_long_as_the_training() -> None:
    assert warmup_cosine(9, 10, 10) == pytest.approx(0.9)
    assert warmup_cosine(10, 10, 10) == 1


def test_mmcvs_straight_line_scaled_by_its_warm_up() -> None:
    factors = [warmup_poly(step, 100, 10) for step in range(101)]
    assert factors[5] == pytest.approx(0.5 * 0.95)
    assert factors[10:] == pytest.approx([1 - step / 100 for step in range(10, 101)])
    assert max(factors) == factors[10]
    assert warmup_poly(75, 100, 0, power=2) == pytest.approx(1 / 16)
    assert warmup_poly(120, 100, 0) == 0


def test_vitdets_two_drops_by_ten() -> None:
    total = 184_375
    steps = (0, 125, 250, 163_888, 163_889, 177_545, 177_546, total)
    factors = [warmup_steps(step, total, 250) for step in steps]
    assert factors == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_the_rate_is_per_256_images() -> None:
    assert scaled_lr(1.5e-4, 256) == pytest.approx(1.5e-4)
    assert scaled_lr(1.5e-4, 128) == pytest.approx(0.75e-4)
