"""What a frozen encoder looks at and what it finds alike, drawn from arrays of the probe stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib import colormaps
from PIL import Image, ImageDraw

from contramask.report import figures
from contramask.report.charts import class_name
from contramask.report.figures import Picture
from contramask.report.sections import Owner, Table
from contramask.report.tables import Stage

#: Encoders side by side in one picture, at most.
ACROSS = 6
#: Frames of right and wrong neighbours: told apart by colour, by dashes, and by a tick or a cross.
RIGHT, WRONG = "#009E73", "#D55E00"
FRAME = 4
#: Of all patches, those that get most of the attention.
BRIGHTEST = 0.1


def attention_tile(image: np.ndarray, heads: np.ndarray, tile: int) -> np.ndarray:
    """An image under its attention (heads, rows, cols): mean of the heads, stretched, bright."""
    picture = figures.fit(image, tile)
    mean = heads.astype(np.float64).mean(axis=0)
    stretched = (mean - mean.min()) / max(float(np.ptp(mean)), 1e-12)
    small = Image.fromarray(np.uint8(255 * stretched))
    warm = np.array(small.resize(picture.size, Image.Resampling.BICUBIC))
    grey = np.array(picture.convert("L").convert("RGB"))
    colours = colormaps["viridis"](warm, bytes=True)[..., :3]
    return np.asarray((0.65 * colours + 0.35 * grey).astype(np.uint8))


def colour_tile(image: np.ndarray, colours: np.ndarray, tile: int) -> np.ndarray:
    """The colours (rows, cols, 3) in [0, 1] of an image's patches, as large as the image."""
    small = Image.fromarray(np.uint8(255 * colours.astype(np.float64)))
    return np.array(small.resize(figures.fit(image, tile).size, Image.Resampling.NEAREST))


@dataclass(frozen=True)
class Kind:
    """One kind of map: its title and file, its array and the images', how a tile is drawn."""

    title: str
    file: str
    maps: str
    images: str
    draw: Callable[[np.ndarray, np.ndarray, int], np.ndarray]


KINDS = (
    Kind(
        "Attention of the class token", "attention", "look_attention", "look_images", attention_tile
    ),
    Kind("Patch features as colours", "colours", "look_colours", "look_images", colour_tile),
    Kind(
        title="Attention of the attentive probe",
        file="probe_attention",
        maps="attention_ep",
        images="attention_images",
        draw=attention_tile,
    ),
)


def look_pictures(owners: Sequence[Owner], kind: Kind, count: int, tile: int) -> list[Picture]:
    """The images beside every encoder's map of them; one picture an `ACROSS` of encoders.

    Encoders that were shown other images are drawn apart.
    """
    alike: dict[bytes, list[Owner]] = {}
    for owner in owners:
        shown = owner.array(kind.images)
        if shown is not None and owner.array(kind.maps) is not None and len(shown):
            alike.setdefault(shown.tobytes(), []).append(owner)
    parts = [
        group[i : i + ACROSS] for group in alike.values() for i in range(0, len(group), ACROSS)
    ]
    pictures = []
    for number, part in enumerate(parts):
        shown = part[0].arrays()[kind.images][:count]
        columns = {"image": shown}
        for owner in part:
            drawn = owner.arrays()[kind.maps][:count]
            columns[owner.variant] = np.stack(
                [kind.draw(*pair, tile) for pair in zip(figures.to_rgb(shown), drawn, strict=True)]
            )
        name = kind.file if len(parts) == 1 else f"{kind.file}-{number + 1}"
        pictures.append(figures.columns_picture(name, columns, tile, kind.title))
    return pictures


def concentration(owners: Sequence[Owner]) -> Table | None:
    """What share of the attention the brightest tenth of the patches gets; None without any."""
    heads = (("look_attention", "Class token"), ("attention_ep", "Attentive probe"))
    lines = []
    for owner in owners:
        maps = [owner.array(name) for name, _ in heads]
        if any(each is not None and each.size for each in maps):
            lines.append((owner.variant, *("\N{EN DASH}" if m is None else _top(m) for m in maps)))
    if not lines:
        return None
    caption = "Share of the attention that the brightest tenth of the patches gets (10 % if even)"
    return Table(caption, ("", *(head for _, head in heads)), tuple(lines))


def _top(maps: np.ndarray) -> str:
    flat = maps.astype(np.float64).mean(axis=1).reshape(len(maps), -1)
    count = max(round(BRIGHTEST * flat.shape[1]), 1)
    best = np.sort(flat, axis=1)[:, -count:].sum(axis=1) / np.maximum(flat.sum(axis=1), 1e-12)
    even = count / flat.shape[1] / BRIGHTEST  # a tenth of 16 patches is 2 of them
    return f"{100 * float(best.mean()) / even:.0f} %"


def near_picture(owner: Owner, names: Sequence[str], count: int, tile: int) -> Picture | None:
    """Queries, each before its nearest images in a frame; None where the probe kept none."""
    queries, images = owner.array("near_queries"), owner.array("near_images")
    table = owner.tables().get("near")
    if queries is None or images is None or table is None or not len(queries):
        return None
    table = table[table["query"] < count]
    known = bool((table["truth"] >= 0).any())
    rows, said = [], []
    for number in range(min(count, len(queries))):
        own = table[table["query"] == number].sort_values("rank")
        tiles = [_framed(figures.to_rgb(queries[number][None])[0], None, tile)]
        tiles += [
            _framed(image, bool(same) if known else None, tile)
            for image, same in zip(figures.to_rgb(images[number]), own["same"], strict=True)
        ]
        rows.append(tiles)
        wanted = class_name(int(own["truth"].iloc[0]), names)
        said.append(f"query of class {wanted}: {int(own['same'].sum())} of {len(own)}")
    png, size = figures.sheet(rows)
    alt = f"{owner.variant}, nearest images of the query's class: {'; '.join(said)}."
    if not known:
        alt = f"{owner.variant}, the training images nearest to {len(rows)} validation images."
    heads = ("query", *(str(rank + 1) for rank in range(images.shape[1])))
    name = f"nearest-{owner.stage.experiment}-{owner.key}"
    right = f"{int(table['same'].sum())} of {len(table)}"
    title = f"{owner.variant}: {right} are of the query's class" if known else owner.variant
    return Picture(name, png, size, title, alt, heads)


def _framed(image: np.ndarray, same: bool | None, tile: int) -> np.ndarray:
    """A tile in a frame: full for the query's class, dashed for another, none for the query."""
    inner = figures.fit(image, tile - 2 * FRAME)
    framed = Image.new("RGB", (inner.width + 2 * FRAME, inner.height + 2 * FRAME), "#FFFFFF")
    framed.paste(inner, (FRAME, FRAME))
    if same is None:
        return np.array(framed)
    draw = ImageDraw.Draw(framed)
    right, bottom = framed.width - 1, framed.height - 1
    colour = RIGHT if same else WRONG
    draw.rectangle((0, 0, right, bottom), outline=colour, width=FRAME)
    if not same:
        for start in range(FRAME, max(right, bottom), 4 * FRAME):
            end = start + 2 * FRAME
            for box in (
                *((start, 0, end, FRAME - 1), (start, bottom - FRAME + 1, end, bottom)),
                *((0, start, FRAME - 1, end), (right - FRAME + 1, start, right, end)),
            ):
                draw.rectangle(box, fill="#FFFFFF")
    _badge(draw, right, colour, same)
    return np.array(framed)


def _badge(draw: ImageDraw.ImageDraw, right: int, colour: str, same: bool) -> None:
    """A tick or a cross in the upper right corner."""
    left = right - 15
    draw.rectangle((left, 0, right, 15), fill=colour)
    ticks = [((3, 8), (6, 11), (12, 4))] if same else [((4, 4), (11, 11)), ((4, 11), (11, 4))]
    for points in ticks:
        draw.line([(left + x, y) for x, y in points], fill="#FFFFFF", width=2)


def near_tables(owners: Sequence[Owner], names: Callable[[Stage], Sequence[str]]) -> list[Table]:
    """The classes of every query's nearest images in words; a table for each choice of queries.

    Encoders that were asked about other images stand in tables of their own. `names` gives the
    class names of a stage.
    """
    alike: dict[tuple[object, ...], list[Owner]] = {}
    for owner in owners:
        # Without classes there are no words to say.
        if "near" in owner.tables() and (owner.tables()["near"]["truth"] >= 0).any():
            alike.setdefault(_asked(owner), []).append(owner)
    return [_near_table(group, names(group[0].stage)) for group in alike.values()]


def _asked(owner: Owner) -> tuple[object, ...]:
    """What two encoders must have in common to stand beside each other: the queries."""
    images, table = owner.array("near_queries"), owner.tables()["near"]
    pixels = None if images is None else (images.shape, images.tobytes())
    pairs = sorted(set(zip(table["query"].tolist(), table["truth"].tolist(), strict=True)))
    return pixels, *pairs


def _near_table(owners: Sequence[Owner], names: Sequence[str]) -> Table:
    found = {owner.variant: owner.tables()["near"] for owner in owners}
    first = next(iter(found.values()))
    lines = []
    for number in sorted(first["query"].unique()):
        words = [_neighbours_in_words(table, number, names) for table in found.values()]
        wanted = int(first.loc[first["query"] == number, "truth"].iloc[0])
        lines.append((f"{number + 1}: {class_name(wanted, names)}", *words))
    caption = "Classes of the nearest training images, the most similar first; cosine in brackets"
    return Table(caption, ("Query", *found), tuple(lines))


def _neighbours_in_words(table: pd.DataFrame, number: int, names: Sequence[str]) -> str:
    own = table[table["query"] == number].sort_values("rank")
    return ", ".join(
        f"{class_name(int(label), names)} ({similarity:.2f})"
        for label, similarity in zip(own["label"], own["similarity"], strict=True)
    )


def mistakes(owner: Owner, names: Sequence[str], count: int, tile: int) -> list[Picture]:
    """The wrong answers a fine-tuned classifier was surest of, one picture each."""
    images, table = owner.array("worst_images"), owner.tables().get("worst")
    if images is None or table is None:
        return []
    pictures = []
    rows = table.head(count).to_dict("records")
    for number, (image, row) in enumerate(
        zip(figures.to_rgb(images[:count]), rows, strict=True), 1
    ):
        array = np.array(figures.fit(image, tile))
        truth, guess = (class_name(int(row[key]), names) for key in ("truth", "predicted"))
        title = f"{truth} taken for {guess}, {row['probability']:.0f}\N{NO-BREAK SPACE}% sure"
        name = f"mistake-{owner.stage.experiment}-{owner.key}-{number}"
        size = (array.shape[1], array.shape[0])
        alt = f"{owner.variant}, validation image {row['id']}: {title}."
        pictures.append(Picture(name, figures.encode_png(array), size, title, alt))
    return pictures
