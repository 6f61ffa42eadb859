"""`contramask boxes compare`: which heat map and rule find the objects of a data set."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_COMPARE = """\
Holds every heat map x rule against the true boxes of a store (data/03_primary/store of a run), next
to boxes that know nothing of the image, and measures the winner again on images that had no say.
Without --encoder only the maps that need no network are compared. A candidate passes when it meets
the acceptance for training; where none does, train with whole images (crop_boxes.method: full)."""
_WIDTH = 140  # characters the widest table needs
#: Columns shown -> their headings; shares are shown in percent.
_PERCENT = {
    "corloc": "CorLoc",
    "shuffled": "shuffled",
    "coverage": "coverage",
    "iou": "mean IoU",
    "fallback": "fallback",
    "area": "box area",
}


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser("boxes", help="compare ways to find crop boxes")
    tasks = parser.add_subparsers(dest="task", required=True)
    task = tasks.add_parser(
        "compare", help="heat maps x rules against true boxes", description=_COMPARE
    )
    task.add_argument("store", type=Path, metavar="STORE")
    task.add_argument("--encoder", type=Path, metavar="FOLDER", help="06_models/<experiment>")
    task.add_argument("--limit", type=int, default=1000, help="images to choose on (default 1000)")
    task.add_argument("--split", choices=("train", "val"), help="default: val if it has boxes")
    task.add_argument("--json", action="store_true", help="print one JSON object, every candidate")
    task.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from contramask.boxes.candidates import compare_candidates
    from contramask.boxes.speed import measure_speed
    from contramask.commands.console import console_on_stderr
    from contramask.data.store import Store

    with console_on_stderr():
        store = Store.read(options.store)
        table = compare_candidates(store, options.encoder, options.limit, options.split)
        speed = measure_speed(store, options.encoder)
    if options.json:
        sys.stdout.write(json.dumps(_as_json(table, speed), allow_nan=False) + "\n")
    else:
        _show(table, speed)
    return 0


def _as_json(table: "pd.DataFrame", speed: "pd.DataFrame") -> dict[str, Any]:
    """All rows as objects, a missing value as null; the winner is null when nothing passes."""
    rows = json.loads(table.to_json(orient="records", double_precision=6))
    return {
        "winner": rows[0] if rows[0]["passes"] else None,
        "rows": rows,
        "speed": json.loads(speed.to_json(orient="records", double_precision=6)),
    }


def _show(table: "pd.DataFrame", speed: "pd.DataFrame") -> None:
    """The best rule of each map, the controls, the winner on other images, and the speeds."""
    from contramask.commands.console import table_console

    check = table[table["part"] == "check"]
    best = check.drop_duplicates(["map", "baseline"])
    console = table_console(_WIDTH)
    console.print(
        _table(f"{check['images'].max()} images: the best block and rule of each map", best)
    )
    held_out = table[table["part"] == "held_out"]
    if len(held_out):
        title = f"{held_out['images'].max()} other images: the first candidate again"
        console.print(_table(title, held_out))
    console.print(_speed_table(speed))
    console.print(_verdict(table.iloc[0]))


def _table(title: str, rows: "pd.DataFrame") -> Any:
    from rich.table import Table

    table = Table(title=title)
    for heading in ("map", "block", "relative to", "rule"):
        table.add_column(heading)
    for heading in (*_PERCENT.values(), "passes"):
        table.add_column(heading, justify="right")
    for row in rows.to_dict("records"):
        named = [_word(row[name]) for name in ("map", "block", "baseline", "rule")]
        shares = [f"{100 * row[name]:.1f} %" for name in _PERCENT]
        table.add_row(*named, *shares, "yes" if row["passes"] else "no")
    return table


def _speed_table(speed: "pd.DataFrame") -> Any:
    from rich.table import Table

    table = Table(title="from pixels in memory to boxes")
    table.add_column("map")
    table.add_column("images/s", justify="right")
    table.add_column("of the plain forward", justify="right")
    for row in speed.to_dict("records"):
        share = row["of_forward"]
        shown = f"{100 * share:.0f} %" if share == share else ""  # not a number: no encoder
        table.add_row(row["map"], f"{row['images_per_s']:.0f}", shown)
    return table


def _verdict(best: "pd.Series") -> str:
    """What to write into the configuration."""
    if not best["passes"]:
        return (
            "No candidate passes: these boxes would not help a training. Train with whole images "
            "(crop_boxes.method: full), or compare a better trained encoder."
        )
    from contramask.boxes.candidates import configuration

    chosen = ", ".join(f"{key}: {value}" for key, value in configuration(best).items())
    return f"The winner, as configuration: crop_boxes: {{{chosen}}}"


def _word(value: Any) -> str:
    """A cell in words; empty where there is nothing to say."""
    return str(value) if isinstance(value, str | int) else ""
