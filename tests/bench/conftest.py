"""Measured variants with numbers known by heart."""

from collections.abc import Callable

import pytest

from contramask.bench import measure
from contramask.bench.measure import Measured
from contramask.bench.ours import OURS
from contramask.bench.variant import LossCheck, Variant


def never() -> None:
    raise AssertionError("nothing is trained here")


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Precise clocks and peaks are not what is tested."""
    monkeypatch.setattr(measure, "_MIN_TURN", 0.0)
    monkeypatch.setattr(measure, "_CPU_SIDE", 128)


@pytest.fixture
def measured() -> Callable[..., Measured]:
    """One variant by its seconds a step; wall and processor time are the same."""

    def make(
        whose: str, seconds: list[float], setting: str = OURS, losses: list[float] | None = None
    ) -> Measured:
        check = LossCheck(losses, [1.0] * len(losses)) if losses else None
        variant = Variant(whose, setting, never, 2e9, f"{whose}, fp32")  # type: ignore[arg-type]
        one = Measured(variant, losses or [1.0], check, 3 * 2**20)
        one.steps, one.wait = [1] * len(seconds), [0.0] * len(seconds)
        one.wall, one.cpu = list(seconds), [2 * s for s in seconds]
        return one

    return make
