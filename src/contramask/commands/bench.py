"""`contramask bench`: how fast a training step is here, and how fast the peers' are."""

import argparse
import json
import sys
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, print tables, and fail if a variant no longer computes what it should."""
    from contramask.bench.sizes import BenchConfig
    from contramask.typed import parse

    names = ("method", "arch", "patch_size", "image_size", "batch_size", "rounds", "device")
    given = {name: getattr(options, name) for name in names}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values["peers"] = tuple(name for name in options.peers.split(",") if name)
    return _step(parse(BenchConfig, values, "bench"), options.json)


def _step(config: Any, out: Path | None) -> int:
    import rich
    from rich.console import Console

    from contramask.bench.measure import run_bench
    from contramask.bench.ours import fixed_batches, our_variants
    from contramask.bench.peers import peer_variants
    from contramask.bench.summary import failed, load_average, record
    from contramask.bench.table import TABLE_WIDTH, machine_lines, ratio_table, speed_table
    from contramask.bench.variant import CHECK_STEPS
    from contramask.train.device import LaunchConfig, pick_machine

    machine = pick_machine(LaunchConfig(device=config.device))
    batches = fixed_batches(config, machine)
    load = [load_average()]
    variants = our_variants(config, machine, batches) + peer_variants(config, machine, batches)
    bench = run_bench(variants, machine, config.rounds)
    whole = record(bench, config, machine, [*load, load_average()])
    # Narrow terminals wrap lines; that is better than numbers cut off.
    console = Console(width=max(rich.get_console().width, TABLE_WIDTH))
    for shown in (speed_table(bench, config), ratio_table(bench), machine_lines(whole)):
        console.print(shown)
    if out is not None:
        out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    for one in failed(bench):
        sys.stderr.write(
            f"contramask bench: the loss of `{one.variant.name}` left that of "
            f"`{one.variant.reference}` within {CHECK_STEPS} steps; its speed does not count\n"
        )
    return 1 if failed(bench) else 0
