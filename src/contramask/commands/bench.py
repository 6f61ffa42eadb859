"""`contramask bench`: how fast a training step is here, and how fast the peers' are."""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the sub-command."""
    parser = commands.add_parser(
        "bench", help="time the training step, or the input, against other packages"
    )
    parser.add_argument("--mode", choices=("step", "input"), default="step")
    parser.add_argument("--method", help="mae (default), cmae, cmae_mao, conmim or supmim")
    parser.add_argument("--arch", help="vit_tiny (default), vit_small, vit_base, ...")
    parser.add_argument("--patch-size", type=int, metavar="PX", help="default 8")
    parser.add_argument("--image-size", type=int, metavar="PX", help="side of a view, default 64")
    parser.add_argument("--batch-size", type=int, metavar="N", help="default 128")
    parser.add_argument("--rounds", type=int, metavar="N", help="timed turns, default 7")
    parser.add_argument("--device", help="auto (default), cpu or cuda")
    parser.add_argument(
        "--peers", default="", metavar="LIST", help="any of hf,lightly,timm (the extra `bench`)"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        default=None,
        help="time our step, and the peers' at their best, under torch.compile, too",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, print tables, and fail if a variant no longer computes what it should."""
    from contramask.bench.sizes import BenchConfig
    from contramask.typed import parse

    names = (
        "method",
        "arch",
        "patch_size",
        "image_size",
        "batch_size",
        "rounds",
        "device",
        "compile",
    )
    given = {name: getattr(options, name) for name in names}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values["peers"] = tuple(name for name in options.peers.split(",") if name)
    config = parse(BenchConfig, values, "bench")
    if options.mode == "input":
        return _input(config, options.json)
    return _step(config, options.json)


def _input(config: Any, out: Path | None) -> int:
    import torch

    from contramask.bench.inputs import input_record, run_inputs
    from contramask.bench.summary import load_average, settings
    from contramask.bench.table import input_table, machine_lines
    from contramask.train.device import Machine
    from contramask.typed import to_plain

    if config.peers or config.method != "mae":
        raise ValueError(
            "--mode input compares ways to read and crop pictures, whatever trains on them; leave "
            "--method and --peers out"
        )
    load = [load_average()]
    with tempfile.TemporaryDirectory() as folder:
        times = run_inputs(config, Path(folder))
    processor = Machine(torch.device("cpu"), "fp32")
    machine = settings(processor, [*load, load_average()])
    whole = {**input_record(times, config), "config": to_plain(config), "machine": machine}
    _show([input_table(times, config), machine_lines(whole)])
    _write(out, whole)
    return 0


def _step(config: Any, out: Path | None) -> int:
    from contramask.bench.measure import run_bench
    from contramask.bench.ours import fixed_batches, our_variants
    from contramask.bench.peers import peer_variants
    from contramask.bench.summary import failed, load_average, record
    from contramask.bench.table import machine_lines, ratio_tables, speed_table
    from contramask.bench.variant import CHECK_STEPS
    from contramask.train.device import LaunchConfig, pick_machine

    machine = pick_machine(LaunchConfig(device=config.device))
    batches = fixed_batches(config, machine)
    load = [load_average()]
    variants = our_variants(config, machine, batches) + peer_variants(config, machine, batches)
    bench = run_bench(variants, machine, config.rounds)
    whole = record(bench, config, machine, [*load, load_average()])
    _show([speed_table(bench, config), *ratio_tables(bench), machine_lines(whole)])
    _write(out, whole)
    for one in failed(bench):
        sys.stderr.write(
            f"contramask bench: the loss of `{one.variant.name}` left that of "
            f"`{one.variant.reference}` within {CHECK_STEPS} steps; its speed does not count\n"
        )
    return 1 if failed(bench) else 0


def _show(parts: list[Any]) -> None:
    from contramask.bench.table import TABLE_WIDTH
    from contramask.commands.console import table_console

    console = table_console(TABLE_WIDTH)
    for part in parts:
        console.print(part)


def _write(out: Path | None, whole: dict[str, Any]) -> None:
    if out is not None:
        out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
