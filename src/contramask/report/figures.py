"""Pictures of the report, drawn from stored arrays: sheets of image tiles as small PNG files."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from faster_coco_eval.core.mask import decode
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from contramask.report.charts import class_name

#: Okabe and Ito's palette, told apart by colour-blind eyes, then lighter and darker relatives.
PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F"),
    *("#7FB8D8", "#F2CF7F", "#7FCEB9", "#EAAE7F", "#E5BCD3", "#004466", "#8A5F00", "#004D39"),
)
#: Colours of a box that was found and of the true one.
FOUND, TRUE = PALETTE[1], "#FFFFFF"
#: Label of pixels that count neither as right nor as wrong.
IGNORED = 255

#: Pixels between two tiles; transparent, so that the page's own colour shows.
GAP = 4

Rows = Sequence[Sequence[np.ndarray]]


@dataclass(frozen=True)
class Picture:
    """One PNG with its size in pixels, what it shows in words, and the headings of its columns."""

    name: str
    png: bytes
    size: tuple[int, int]
    title: str
    alt: str
    columns: tuple[str, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()

    @property
    def uri(self) -> str:
        """The picture as a `data:` address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def to_rgb(images: np.ndarray) -> np.ndarray:
    """uint8 images (n, H, W) or (n, H, W, C) as (n, H, W, 3): grey repeated, of many channels
    the first three."""
    images = images[..., None] if images.ndim == 3 else images
    if images.shape[-1] < 3:
        images = np.repeat(images[..., :1], 3, axis=-1)
    return np.ascontiguousarray(images[..., :3])


def fit(image: np.ndarray, tile: int) -> Image.Image:
    """An RGB image whose longer side is about `tile` pixels.

    Small images grow by a whole factor without smoothing, so that a pixel stays a pixel.
    """
    picture = Image.fromarray(image)
    longest = max(picture.size)
    if longest <= tile:
        factor = tile // longest
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    size = (max(picture.width * tile // longest, 1), max(picture.height * tile // longest, 1))
    return picture.resize(size, Image.Resampling.LANCZOS)


def encode_png(image: np.ndarray, empty: np.ndarray | None = None) -> bytes:
    """A palette PNG of an RGB image; pixels where `empty` (H, W) holds become transparent.

    At most 255 colours: a photograph's tile loses little one would see and two thirds of its size.
    """
    indices, palette = _paletted(image)
    if empty is not None:
        indices[empty] = 255
    final = Image.fromarray(indices)
    final.putpalette(palette.tolist(), "RGB")
    buffer = io.BytesIO()
    final.save(buffer, "PNG", optimize=True, transparency=255)
    return buffer.getvalue()


def _paletted(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices uint8 (H, W) and their colours (256 * 3,); exact while 255 colours suffice."""
    palette = np.zeros((256, 3), np.uint8)
    packed = image.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, places = np.unique(packed, return_inverse=True)
    if len(colours) <= 255:
        palette[: len(colours)] = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1)
        return places.reshape(packed.shape).astype(np.uint8), palette.ravel()
    reduced = Image.fromarray(image).quantize(255, method=Image.Quantize.FASTOCTREE)
    found = np.array(reduced.getpalette() or [], np.uint8)[: 3 * 255]
    palette.ravel()[: len(found)] = found
    return np.array(reduced), palette.ravel()


def sheet(rows: Rows) -> tuple[bytes, tuple[int, int]]:
    """Equal RGB tiles laid out row by row with transparent gaps; PNG and (width, height).

    Rows may be of different lengths.
    """
    height, width = rows[0][0].shape[:2]
    across, down = max(len(row) for row in rows), len(rows)
    shape = (down * (height + GAP) - GAP, across * (width + GAP) - GAP)
    canvas = np.zeros((*shape, 3), np.uint8)
    empty = np.ones(shape, bool)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            top, left = r * (height + GAP), c * (width + GAP)
            place = np.s_[top : top + height, left : left + width]
            canvas[place], empty[place] = tile, False
    return encode_png(canvas, empty), (shape[1], shape[0])


def columns_picture(name: str, columns: Mapping[str, np.ndarray], tile: int, say: str) -> Picture:
    """One row an image, one column an entry (n, H, W[, C]) of `columns`; `say` is the title."""
    stacks = [to_rgb(images) for images in columns.values()]
    rows = [[np.array(fit(image, tile)) for image in group] for group in zip(*stacks, strict=True)]
    png, size = sheet(rows)
    alt = f"{say}: {len(rows)} rows of images; columns from left to right: {', '.join(columns)}."
    return Picture(name, png, size, say, alt, tuple(columns))


def rows_picture(name: str, rows: Mapping[str, np.ndarray], tile: int, say: str) -> Picture:
    """One column an image, one row for each entry (n, H, W[, C]) of `rows`; `say` is the title."""
    tiles = [[np.array(fit(image, tile)) for image in to_rgb(stack)] for stack in rows.values()]
    png, size = sheet(tiles)
    alt = f"{say}: {len(tiles[0])} images side by side; rows from the top: {', '.join(rows)}."
    return Picture(name, png, size, say, alt)


def contact_sheet(image: np.ndarray, widest: int) -> Picture | None:
    """The data's contact sheet, about `widest` pixels on its longer side; None when it is empty."""
    if image.size == 0:
        return None
    array = np.array(fit(to_rgb(image[None])[0], widest))
    alt = "Contact sheet: a grid of images drawn from the training data."
    return Picture(
        "contact_sheet", encode_png(array), (array.shape[1], array.shape[0]), "Contact sheet", alt
    )


def box_pictures(preview: Mapping[str, np.ndarray], count: int, tile: int) -> list[Picture]:
    """Crop boxes over images beside the heat maps they were cut from, in up to three sheets.

    `preview` may hold images (n, H, W, C), boxes (n, 4) as shares of the sides (x0, y0, x1, y1),
    truth (n, 4) likewise (NaN where unknown), heatmaps (n, g, g), pairs of crops (n, 2, 4); without
    images there is nothing to draw.
    """
    if "images" not in preview:
        return []
    pictures: list[Picture] = []
    images = to_rgb(preview["images"])
    for start in range(0, min(len(images), 3 * count), count):
        rows = [
            _box_row(preview, images, i, tile)
            for i in range(start, min(start + count, len(images)))
        ]
        png, size = sheet(rows)
        columns = ["crop box"] + ["heat map"] * ("heatmaps" in preview)
        columns += ["crop", "its pair"] * ("pairs" in preview)
        alt = f"{len(rows)} training images; columns: {', '.join(columns)}."
        number = len(pictures) + 1
        title = f"Images {start + 1} to {start + len(rows)}"
        pictures.append(Picture(f"boxes-{number}", png, size, title, alt, tuple(columns)))
    return pictures


def _box_row(
    preview: Mapping[str, np.ndarray], images: np.ndarray, number: int, tile: int
) -> list[np.ndarray]:
    picture = fit(images[number], tile)
    for name, colour in (("truth", TRUE), ("boxes", FOUND)):
        if name in preview and np.isfinite(preview[name][number]).all():
            outline(picture, preview[name][number] * np.tile(picture.size, 2), colour)
    row = [np.array(picture)]
    if "heatmaps" in preview:
        warm = Image.fromarray(preview["heatmaps"][number]).resize(
            picture.size, Image.Resampling.BICUBIC
        )
        colours = colormaps["viridis"](np.array(warm), bytes=True)[..., :3]
        grey = np.array(fit(images[number], tile).convert("L").convert("RGB"))
        row.append((0.65 * colours + 0.35 * grey).astype(np.uint8))
    for crop in preview["pairs"][number] if "pairs" in preview else ():
        height, width = images[number].shape[:2]
        x0, y0, x1, y1 = (crop * [width, height, width, height]).tolist()
        piece = Image.fromarray(images[number]).resize(
            picture.size, Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)
        )
        row.append(np.array(piece))
    return row


def outline(image: Image.Image, box: Sequence[float], colour: str, text: str = "") -> None:
    """Draw a box (pixels x0, y0, x1, y1) with a dark rim, and a label inside its upper corner."""
    draw = ImageDraw.Draw(image)
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    x1, y1 = max(x1 - 1, x0), max(y1 - 1, y0)
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="#000000", width=4)
    draw.rectangle((x0, y0, x1, y1), outline=colour, width=2)
    if text:
        font = ImageFont.load_default(11)
        left, _, right, bottom = draw.textbbox((0, 0), text, font=font)
        place = (min(x0, image.width - int(right - left) - 4), max(y0, 0))
        draw.rectangle((*place, place[0] + right - left + 4, place[1] + bottom + 2), fill="#000000")
        draw.text((place[0] + 2, place[1]), text, font=font, fill="#FFFFFF")


def tint(images: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Images (n, H, W, C) under the colours of their label maps (n, H, W).

    A class called background keeps the bare image, ignored pixels become grey.
    """
    grey = to_rgb(images).mean(axis=-1, keepdims=True)
    colours = np.array([_rgb(class_colour(label)) for label in range(IGNORED)] + [(96, 96, 96)])
    clear = [i for i, name in enumerate(names) if _is_background(name)]
    share = np.where(np.isin(labels, clear), 0.0, 0.7)[..., None]
    mixed = (1 - share) * np.where(share > 0, grey, to_rgb(images)) + share * colours[labels]
    return np.asarray(mixed.astype(np.uint8))


def _is_background(name: str) -> bool:
    return str(name).lower() == "background"


def segmentation_picture(
    name: str, title: str, arrays: Mapping[str, np.ndarray], names: Sequence[str], tile: int
) -> Picture:
    """Image, truth and every head's prediction side by side, with the legend of classes in them."""
    images = arrays["images"]
    maps = {"truth": arrays["truth"]}
    maps |= {
        key.removeprefix("predicted_") + " head": value
        for key, value in sorted(arrays.items())
        if key.startswith("predicted_")
    }
    columns = {"image": images} | {key: tint(images, maps[key], names) for key in maps}
    picture = columns_picture(name, columns, tile, title)
    present = np.unique(np.concatenate([value.ravel() for value in maps.values()])).tolist()
    named = [(class_name(i, names), class_colour(i)) for i in present if i != IGNORED]
    legend = tuple(item for item in named if not _is_background(item[0]))
    return Picture(
        name, picture.png, picture.size, title, picture.alt, picture.columns, legend[:24]
    )


def detection_picture(
    name: str, title: str, images: np.ndarray, boxes: pd.DataFrame, names: Sequence[str], tile: int
) -> Picture:
    """Images (n, H, W[, C]) two a row with the boxes, masks and scores found in them.

    `boxes` has the columns image (row of `images`), category, score, x0, y0, x1, y1 (pixels) and
    perhaps rle; which of them are worth drawing the caller decides.
    """
    tiles = []
    for number, image in enumerate(to_rgb(images)):
        found = boxes[boxes["image"] == number].sort_values("score", kind="stable")
        tiles.append(np.array(_detections(image, found, names, tile)))
    png, size = sheet([tiles[i : i + 2] for i in range(0, len(tiles), 2)])
    alt = f"{title}: {len(tiles)} images with {len(boxes)} boxes found."
    return Picture(name, png, size, title, alt)


def _detections(
    image: np.ndarray, found: pd.DataFrame, names: Sequence[str], tile: int
) -> Image.Image:
    height, width = image.shape[:2]
    mixed = image.astype(np.float64)
    for row in found.to_dict("records"):
        if isinstance(row.get("rle"), str) and row["rle"]:
            inside = decode({"size": [height, width], "counts": row["rle"]}).astype(bool)
            mixed[inside] = 0.5 * mixed[inside] + 0.5 * _rgb(class_colour(int(row["category"])))
    picture = fit(mixed.astype(np.uint8), tile)
    scale = np.array([picture.width / width, picture.height / height] * 2)
    for row in found.to_dict("records"):
        box = np.array([row[side] for side in ("x0", "y0", "x1", "y1")], float) * scale
        text = f"{class_name(int(row['category']), names)[:12]} {100 * row['score']:.0f}%"
        outline(picture, box.tolist(), class_colour(int(row["category"])), text)
    return picture


def class_colour(label: int) -> str:
    """The colour of a class, `#RRGGBB`."""
    return PALETTE[label % len(PALETTE)]


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
