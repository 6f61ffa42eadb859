"""From turns to numbers: medians, spreads, ratios of the same round, and one plain record."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import numpy as np
import torch

from contramask.bench.measure import Bench, Measured
from contramask.bench.ours import COMPILED, OURS
from contramask.bench.sizes import BenchConfig
from contramask.results import code_revision, today
from contramask.train.device import Machine, machine_name
from contramask.typed import to_plain

_PACKAGES = ("torch", "timm", "transformers", "lightly")


@dataclass(frozen=True)
class Spread:
    """Median and the 10th and 90th percentile of some turns."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        low, median, high = np.percentile(values, [10, 50, 90])
        return cls(float(median), float(low), float(high))


@dataclass(frozen=True)
class Ratio:
    """How many times faster our step in one setting is than `peer`, by clock and processor time.

    Formed round by round, so that what slows a whole round down cancels out.
    """

    ours: str
    peer: str
    wall: Spread
    cpu: Spread


def ratios(bench: Bench) -> list[Ratio]:
    """Ours, in the settings people train in, against all of the peers'; empty without a peer."""
    of_ours = [one for one in bench.variants if one.variant.setting in (OURS, COMPILED)]
    peers = [one for one in bench.variants if one.variant.whose != of_ours[0].variant.whose]
    return [
        Ratio(
            own.variant.setting,
            p.variant.name,
            _ratio(own.wall, p.wall),
            _ratio(own.cpu, p.cpu),
        )
        for own in of_ours
        for p in peers
    ]


def _ratio(ours: list[float], peer: list[float]) -> Spread:
    return Spread.of([theirs / own for own, theirs in zip(ours, peer, strict=True)])


def failed(bench: Bench) -> list[Measured]:
    """Variants whose loss left the float32 reference."""
    return [one for one in bench.variants if one.check is not None and not one.check.passed]


def rate(one: Measured, config: BenchConfig) -> Spread:
    """Images a second."""
    return Spread.of([config.batch_size / seconds for seconds in one.wall])


def cpu_rate(one: Measured, config: BenchConfig) -> Spread:
    """Images a processor second: what a core does, whatever else the machine is busy with."""
    return Spread.of([config.batch_size / seconds for seconds in one.cpu])


def flop_rate(one: Measured, config: BenchConfig) -> float:
    """The model's FLOP/s."""
    return rate(one, config).median * one.variant.flops_per_image


def share_of_peak(one: Measured, bench: Bench, config: BenchConfig) -> Spread:
    """The model's FLOP/s over those of a large matrix product, measured in the same round."""
    peaks = [max(rates) for rates in zip(*bench.peaks.values(), strict=True)]
    work = config.batch_size * one.variant.flops_per_image
    return Spread.of([work / wall / peak for wall, peak in zip(one.wall, peaks, strict=True)])


def record(
    bench: Bench, config: BenchConfig, machine: Machine, load: list[float]
) -> dict[str, Any]:
    """Everything measured and the settings it was measured under, as plain values for JSON."""
    return {
        "config": to_plain(config),
        "method": to_plain(config.method_config()),
        "machine": settings(machine, load),
        "matmul_flops": bench.peaks,
        "variants": [_plain(one, bench, config) for one in bench.variants],
        "ratios": [asdict(ratio) for ratio in ratios(bench)],
        "failed": [one.variant.name for one in failed(bench)],
    }


def settings(machine: Machine, load: list[float]) -> dict[str, Any]:
    """What decides about speed beside the code; load: before and after, one-minute averages."""
    installed = {name: _version(name) for name in _PACKAGES}
    return {
        "name": machine_name(machine.device),
        "device": str(machine.device),
        "precision": machine.precision,
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "allocator": "glibc, freed memory kept" if machine.device.type == "cpu" else "torch",
        "load": load,
        "packages": {name: version for name, version in installed.items() if version},
        "code_revision": code_revision(),
        "date": today(),
    }


def load_average() -> float:
    """How many processes wanted to run in the last minute."""
    return os.getloadavg()[0]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _plain(one: Measured, bench: Bench, config: BenchConfig) -> dict[str, Any]:
    return {
        "name": one.variant.name,
        "images_per_s": asdict(rate(one, config)),
        "images_per_cpu_s": asdict(cpu_rate(one, config)),
        "flops_per_image": one.variant.flops_per_image,
        "flops_per_s": flop_rate(one, config),
        "share_of_peak": asdict(share_of_peak(one, bench, config)),
        "data_wait": Spread.of(one.wait).median,
        "peak_memory_bytes": one.memory,
        "losses": one.losses,
        "loss_reference": one.variant.reference,
        "loss_difference": one.check.difference if one.check else None,
        "loss_ok": one.check.passed if one.check else None,
        "rounds": {"steps": one.steps, "wall_s": one.wall, "cpu_s": one.cpu, "wait": one.wait},
    }
