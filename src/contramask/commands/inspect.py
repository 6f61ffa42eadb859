"""`contramask inspect FOLDER`: what lies there, and what to type to use it."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import rich
from rich.console import Console
from rich.table import Table
from rich.text import Text

_DECODED = 2000  # images looked at unless told otherwise
_LISTED = 12  # rows of a table
_ACTIONS = {"skipped": 0, "converted": 1, "used": 2}  # in the order they are shown
#: What differs between two problems of one kind: numbers and quoted text.
_PARTICULAR = re.compile(r"'[^']*'|[\d.,#]+|\S+\.(?:png|tiff?|jpe?g)\b")


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser(
        "inspect", help="say what a folder, archive or table of images holds and how to use it"
    )
    parser.add_argument("path", type=Path, metavar="FOLDER", help="a folder, archive, table, image")
    parser.add_argument(
        *("--limit", "-n"),
        type=_count,
        default=_DECODED,
        metavar="N",
        help=f"decode at most N images, spread evenly; 0: all (default {_DECODED})",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Inspect and print; returns 0, also when nothing usable was found."""
    from contramask.data.survey import survey  # decoders: only where they are used
    from contramask.progress import track

    if options.json:
        found = survey(options.path, options.limit, _unwatched)
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    else:
        show(survey(options.path, options.limit, track), rich.get_console())
    return 0


def show(found: dict[str, Any], console: Console) -> None:
    """Print a survey as tables."""
    console.print(Text(found["path"], style="bold"), soft_wrap=True)
    if not found["layouts"]:
        console.print(_nothing(found["images"]) + "\n")
    _show_layouts(found["layouts"], console)
    _show_files(found["files"], console)
    images = found["images"]
    if images["readable"]:
        _show_images(found, console)
        _show_sizes(images["sizes"], console)
        _show_classes(found["annotations"], console)
    if images["found"]:
        _show_problems(found["problems"], console)
    looked = f"{images['decoded']:,} of {images['found']:,} images decoded"
    more = "" if images["decoded"] == images["found"] else "; --limit 0 decodes all"
    console.print(f"{looked} in {found['seconds']:g} s{more}", style="dim")


def _nothing(images: dict[str, Any]) -> str:
    if images["readable"]:
        return "a single image; give the folder it lies in to use it with others"
    return "no layout was recognised: there is no image here that can be used"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of images; give 0 (all) or more")
    return int(text)


def _unwatched(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    return items


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table


def _show_layouts(layouts: list[dict[str, str]], console: Console) -> None:
    readable = [layout for layout in layouts if not layout["complaint"]]
    for layout in layouts:
        if layout["complaint"]:
            console.print(f"\nlooks like [bold]{layout['source']}[/], but cannot be read:")
            console.print(Text(layout["complaint"], style="yellow"), soft_wrap=True)
            continue
        first = layout is readable[0]
        console.print(
            f"\n{'found' if first else 'also readable as'} [bold]{layout['source']}[/]:", end=" "
        )
        console.print(Text(layout["why"]), soft_wrap=True)
        style = "bold green" if first else "green"
        console.print(Text(layout["command"], style=style), soft_wrap=True)
    console.print()


def _show_files(files: dict[str, Any], console: Console) -> None:
    table = _table(f"{files['count']:,} files", "ending", "files")
    for ending, count in [*files["by_ending"].items()][:_LISTED]:
        table.add_row(Text(ending), f"{count:,}")
    rest = [*files["by_ending"].values()][_LISTED:]
    if rest:
        table.add_row(f"{len(rest)} other endings", f"{sum(rest):,}")
    for what, count in files["not_opened"].items():
        table.add_row(Text(what, style="yellow"), f"{count:,}")
    console.print(table)


def _show_images(found: dict[str, Any], console: Console) -> None:
    images, twice = found["images"], found["duplicates"]
    table = Table(title="Images", title_justify="left", title_style="bold", show_header=False)
    table.add_row("format", _shares(images["format"]))
    table.add_row("mode", _shares(images["mode"]))
    table.add_row("channels", _shares(images["channels"]))
    table.add_row("bits a channel", _shares(images["bit_depth"]))
    if found["splits"]:
        table.add_row("splits", _shares(found["splits"]))
    for key, value in found["facts"].items():
        if value not in ({}, [], 0, None):
            table.add_row(key.replace("_", " "), Text(_words(value)))
    copies = "none" if not twice["surplus"] else f"{twice['surplus']:,} surplus"
    if twice["across_splits"]:
        copies += f", {twice['across_splits']:,} in train and val alike"
    examples = "".join(f"\n{' = '.join(group)}" for group in twice["examples"][:3])
    table.add_row("exact copies", Text(copies + examples))
    console.print(table)


def _show_sizes(sizes: dict[str, dict[str, float]], console: Console) -> None:
    if not sizes:
        return
    table = _table("Sizes in pixels", "", *sizes["width"])
    for side, quantiles in sizes.items():
        table.add_row(side, *(f"{value:,.0f}" for value in quantiles.values()))
    console.print(table)
    short = min(quantiles["median"] for quantiles in sizes.values())
    console.print(
        "the store keeps dataset.image_size of each image: the side of a square or [rows, columns],"
        f" cut out of the middle or padded by dataset.fit (the median short side is {short:,.0f})",
        style="dim",
        markup=False,  # the brackets are meant
    )


def _show_classes(annotations: dict[str, Any], console: Console) -> None:
    classes = Counter(annotations["classes"])
    if classes:
        table = _table(f"{len(classes):,} classes of images", "class", "decoded")
        for name, count in classes.most_common(_LISTED):
            table.add_row(Text(name), f"{count:,}")
        if len(classes) > _LISTED:
            table.add_row(f"{len(classes) - _LISTED:,} others", "")
        if annotations["unlabelled"]:
            table.add_row("without a class", f"{annotations['unlabelled']:,}")
        console.print(table)
    for what, key, decoded in (
        ("pixels", "semantic_classes", f"{annotations['with_mask']:,} images with a mask"),
        ("objects", "instance_classes", f"{annotations['objects']:,} objects"),
    ):
        named = annotations[key]
        if named:
            shown = ", ".join(named[:_LISTED]) + (", ..." if len(named) > _LISTED else "")
            classes_of = "classes of" if len(named) > 1 else "class of"
            console.print(Text(f"{len(named):,} {classes_of} {what} ({decoded} decoded): {shown}"))


def _show_problems(problems: list[dict[str, Any]], console: Console) -> None:
    if not problems:
        console.print("no file gave trouble")
        return
    kinds = Counter((p["action"], _PARTICULAR.sub("#", p["problem"])) for p in problems)
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for problem in problems:
        first.setdefault((problem["action"], _PARTICULAR.sub("#", problem["problem"])), problem)
    table = Table(title="Odd files", title_justify="left", title_style="bold", header_style="dim")
    for column in ("files", "would be", "for example", "which"):
        table.add_column(column, justify="right" if column == "files" else "left")
    order = sorted(kinds.items(), key=lambda item: (_ACTIONS[item[0][0]], -item[1]))
    for kind, count in order[:_LISTED]:
        example = first[kind]
        action = Text(kind[0], style="red" if kind[0] == "skipped" else "yellow")
        table.add_row(f"{count:,}", action, Text(example["id"]), Text(example["problem"]))
    console.print(table)
    if len(kinds) > _LISTED:
        console.print(
            f"and {len(kinds) - _LISTED} more kinds; --json lists every file", style="dim"
        )


def _shares(counts: dict[str, int]) -> Text:
    shown = [f"{name} ({count:,})" for name, count in counts.items()]
    return Text(", ".join(shown[:_LISTED]) + (", ..." if len(shown) > _LISTED else "") or "none")


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {name}" for name, count in value.items())
    if isinstance(value, list):
        return ", ".join(str(each) for each in value[:_LISTED])
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
