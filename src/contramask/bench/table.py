"""The tables `contramask bench` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from contramask.bench.inputs import OURS, InputTimes, input_ratios
from contramask.bench.measure import Bench, Measured
from contramask.bench.sizes import BenchConfig
from contramask.bench.summary import (
    Spread,
    cpu_rate,
    flop_rate,
    rate,
    ratios,
    share_of_peak,
)
from contramask.bench.variant import CHECK_TOLERANCE

TABLE_WIDTH = 120  # characters the widest table needs
_SHORT = dict(zip(OURS, ("device", "ring"), strict=True))


def speed_table(bench: Bench, config: BenchConfig) -> Table:
    """One row a variant: speed, work, share of the machine's peak, memory, loss check."""
    title = (
        f"{config.method}, {config.arch} patch {config.patch_size}, {config.image_size} px, "
        f"batch {config.batch_size}"
    )
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    table.add_column("step", no_wrap=True)
    heads = ("img/s", "p10-p90", "img/cpu-s", "GFLOP/s", "of peak", "wait", "MB", "loss", "check")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for one in bench.variants:
        table.add_row(one.variant.name, *_speed_cells(one, bench, config))
    return table


def _speed_cells(one: Measured, bench: Bench, config: BenchConfig) -> list[str]:
    speed = rate(one, config)
    memory = "-" if one.memory is None else f"{one.memory / 2**20:.0f}"
    return [
        f"{speed.median:.0f}",
        f"{speed.low:.0f}-{speed.high:.0f}",
        f"{cpu_rate(one, config).median:.0f}",
        f"{flop_rate(one, config) / 1e9:.0f}",
        f"{share_of_peak(one, bench, config).median:.0%}",
        f"{Spread.of(one.wait).median:.1%}" if any(one.wait) else "-",
        memory,
        f"{one.losses[-1]:.3f}",
        _check_cell(one),
    ]


def _check_cell(one: Measured) -> str:
    if one.check is None:
        return "-"
    verdict = "ok" if one.check.passed else f"FAILED (over {CHECK_TOLERANCE:.0%})"
    return f"{one.check.difference:.1%} {verdict}"


def ratio_tables(bench: Bench) -> list[Table]:
    """How many times faster ours is than each peer in each setting; one table a setting of ours."""
    tables: dict[str, Table] = {}
    for ratio in ratios(bench):
        if ratio.ours not in tables:
            title = f"ours {ratio.ours} / peer"
            table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
            table.add_column("peer", no_wrap=True)
            for head in ("times", "p10-p90", "by cpu time", "p10-p90"):
                table.add_column(head, justify="right", no_wrap=True)
            tables[ratio.ours] = table
        tables[ratio.ours].add_row(ratio.peer, *_ratio_cells(ratio.wall), *_ratio_cells(ratio.cpu))
    return list(tables.values())


def input_table(times: Sequence[InputTimes], config: BenchConfig) -> Table:
    """One row a way to get batches: speed, and how many times faster each of ours is."""
    title = f"input, crops of {config.image_size} px, batch {config.batch_size}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    table.add_column("batches", no_wrap=True)
    found = input_ratios(times)
    heads = ["img/s", "img/cpu-s"]
    for name in found:
        heads += [f"{_SHORT[name]} is", "p10-p90", "by cpu"]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for one in times:
        cells = [f"{Spread.of(rates).median:.0f}" for rates in (one.wall, one.cpu)]
        for ratio in (r for of_ours in found.values() for r in of_ours if r.peer == one.name):
            cells += [*_ratio_cells(ratio.wall), f"{ratio.cpu.median:.2f}x"]
        table.add_row(one.name, *cells)
    return table


def _ratio_cells(spread: Spread) -> tuple[str, str]:
    return f"{spread.median:.2f}x", f"{spread.low:.2f}-{spread.high:.2f}"


def machine_lines(whole: Mapping[str, Any]) -> str:
    """What the numbers were measured on and under."""
    machine = whole["machine"]
    peaks = {n: Spread.of(r).median / 1e9 for n, r in whole.get("matmul_flops", {}).items()}
    found = ", ".join(f"{name} {peak:.0f}" for name, peak in peaks.items())
    found = f"matmul peak in GFLOP/s: {found}; " if found else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    before, after = machine["load"]
    return (
        f"{machine['name']}; {machine['threads']} threads, OpenMP waiting "
        f"{machine['omp_wait_policy'].lower()}, {machine['allocator']}\n"
        f"{found}load {before:.1f} before, {after:.1f} after\n"
        f"{versions}; revision {machine['code_revision']}, {machine['date']}"
    )
