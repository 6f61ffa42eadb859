"""A number over seeds, and how sure it and its difference to another are: 95 % intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Cell:
    """One number of a table: its values, one a seed, in percent; and the anchor's."""

    values: tuple[float, ...]
    anchor: tuple[float, ...] = ()
    best: bool = False
    seeds: tuple[int, ...] = ()  # of the values
    paired: tuple[float, ...] = ()  # value minus anchor's, of each seed that both have

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> float | None:
        """Half the width of the mean's 95 % interval; None with one seed."""
        return half_width(self.values)

    @property
    def difference(self) -> float | None:
        """Mean minus the anchor's mean, in points; None for the anchor itself or without one.

        Over the seeds that both have, once those are two.
        """
        if len(self.paired) > 1:
            return float(np.mean(self.paired))
        return self.mean - float(np.mean(self.anchor)) if self.anchor else None

    @property
    def margin(self) -> float | None:
        """Half the 95 % interval of `difference`: paired by seed, else Welch's; None if unknown."""
        if len(self.paired) > 1:
            return half_width(self.paired)
        return difference_half_width(self.values, self.anchor)


def half_width(values: Sequence[float]) -> float | None:
    """Half the 95 % interval of a mean by Student's t; None with fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    return float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5)


def difference_half_width(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Half the 95 % interval of mean(a) - mean(b), variances not assumed equal (Welch).

    None with fewer than two values on either side; 0 when neither side varies.
    """
    if min(len(a), len(b)) < 2:
        return None
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (a, b)]
    if sum(parts) == 0:
        return 0.0
    weights = [part**2 / (len(side) - 1) for part, side in zip(parts, (a, b), strict=True)]
    freedom = sum(parts) ** 2 / sum(weights)
    return float(stats.t.ppf(0.975, freedom) * sum(parts) ** 0.5)


def paired_differences(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[float, ...]:
    """a minus b (seed -> value) for every seed that both have.

    Runs of one seed share their start and their images, so their difference varies less than they.
    """
    return tuple(a[seed] - b[seed] for seed in a if seed in b)
