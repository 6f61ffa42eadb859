import io

import numpy as np
import pandas as pd
import pytest
from faster_coco_eval.core.mask import encode
from PIL import Image

from contramask.report.figures import (
    FOUND,
    GAP,
    IGNORED,
    box_pictures,
    class_colour,
    columns_picture,
    contact_sheet,
    detection_picture,
    encode_png,
    fit,
    rows_picture,
    segmentation_picture,
    sheet,
    tint,
    to_rgb,
)


def pixels(png, mode="RGB"):
    return np.array(Image.open(io.BytesIO(png)).convert(mode))


def rgb(colour):
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


@pytest.mark.parametrize("shape", [(2, 4, 6), (2, 4, 6, 1), (2, 4, 6, 3), (2, 4, 6, 5)])
def test_any_channels_become_three(shape):
    images = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    made = to_rgb(images)
    assert made.shape == (2, 4, 6, 3)
    first = images if images.ndim == 3 else images[..., 0]
    np.testing.assert_array_equal(made[..., 0], first)


def test_small_images_grow_by_whole_factors_and_large_ones_shrink():
    image = np.zeros((10, 10, 3), np.uint8)
    image[0, 0] = 255
    grown = np.array(fit(image, 35))
    assert grown.shape == (30, 30, 3)
    assert set(np.unique(grown)) == {0, 255}
    assert (grown[:3, :3] == 255).all()
    assert fit(np.zeros((50, 200, 3), np.uint8), 100).size == (100, 25)


def test_a_sheet_keeps_tiles_exactly_and_leaves_gaps_transparent():
    tiles = [[np.full((8, 6, 3), 10 * (r * 2 + c), np.uint8) for c in range(2)] for r in range(2)]
    png, size = sheet([tiles[0], tiles[1][:1]])
    made = pixels(png, "RGBA")
    assert size == (2 * 6 + GAP, 2 * 8 + GAP)
    assert made.shape[:2] == size[::-1]
    assert (made[:8, 6 + GAP :] == [10, 10, 10, 255]).all()
    assert (made[:8, 6 : 6 + GAP, 3] == 0).all()
    assert (made[8 + GAP :, 6:, 3] == 0).all()  # the row with one tile only


def test_png_bytes_depend_on_pixels_alone():
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    assert encode_png(image) == encode_png(image.copy())
    assert b"tIME" not in encode_png(image)


def test_columns_and_rows_pictures_are_transposes():
    images = np.zeros((3, 8, 8, 3), np.uint8)
    upright = columns_picture("a", {"original": images, "masked": images}, 8, "MAE")
    flat = rows_picture("a", {"view": images, "target view": images}, 8, "MAE")
    assert upright.size == flat.size[::-1] == (2 * 8 + GAP, 3 * 8 + 2 * GAP)
    assert upright.columns == ("original", "masked")
    assert "3 rows of images; columns from left to right: original, masked" in upright.alt
    assert "3 images side by side; rows from the top: view, target view" in flat.alt
    assert upright.uri.startswith("data:image/png;base64,")


def test_boxes_are_drawn_where_they_are():
    preview = {
        "images": np.full((1, 32, 32, 3), 90, np.uint8),
        "boxes": np.array([[0.25, 0.5, 0.75, 1.0]]),
        "truth": np.full((1, 4), np.nan),
    }
    (picture,) = box_pictures(preview, 5, 64)
    hits = np.argwhere((pixels(picture.png) == rgb(FOUND)).all(axis=-1))
    assert hits.min(axis=0).tolist() == [32, 16]
    assert hits.max(axis=0).tolist() == [63, 47]
    assert picture.columns == ("crop box",)


def test_heat_maps_lie_beside_their_image_and_sheets_are_few():
    preview = {
        "images": np.zeros((40, 8, 8, 1), np.uint8),
        "boxes": np.zeros((40, 4)),
        "heatmaps": np.full((40, 2, 2), 255, np.uint8),
    }
    pictures = box_pictures(preview, 5, 16)
    assert [picture.title for picture in pictures] == [
        "Images 1 to 5",
        "Images 6 to 10",
        "Images 11 to 15",
    ]
    assert pictures[0].columns == ("crop box", "heat map")
    assert box_pictures({}, 5, 16) == []


def test_tint_shows_classes_and_greys_what_is_ignored():
    images = np.full((1, 2, 2, 3), 100, np.uint8)
    labels = np.array([[[0, 1], [IGNORED, 1]]], np.uint8)
    made = tint(images, labels, ["background", "cat"])[0]
    assert made[0, 0].tolist() == [100, 100, 100]
    np.testing.assert_allclose(made[0, 1], 0.3 * 100 + 0.7 * np.array(rgb(class_colour(1))), atol=1)
    assert len(set(made[1, 0].tolist())) == 1


def test_segmentation_shows_every_head_and_names_its_classes():
    labels = np.zeros((2, 8, 8), np.uint8)
    labels[:, :4] = 2
    arrays = {"images": np.zeros((2, 8, 8, 3), np.uint8), "truth": labels}
    arrays |= {"predicted_upernet": labels, "predicted_linear": labels}
    names = ["background", "cat", "dog"]
    picture = segmentation_picture("s", "MAE", arrays, names, 8)
    assert picture.columns == ("image", "truth", "linear head", "upernet head")
    assert picture.legend == (("dog", class_colour(2)),)


def test_detections_colour_the_mask_and_outline_the_box():
    inside = np.zeros((32, 32), np.uint8, order="F")
    inside[10:20, 10:20] = 1
    counts = encode(inside)["counts"]
    row = {"image": 0, "category": 0, "score": 0.9, "x0": 4, "y0": 4, "x1": 28, "y1": 28}
    row["rle"] = counts if isinstance(counts, str) else counts.decode("ascii")
    black = np.zeros((1, 32, 32, 3), np.uint8)
    picture = detection_picture("d", "MAE", black, pd.DataFrame([row]), ["cat"], 128)
    made = pixels(picture.png)
    np.testing.assert_allclose(made[70, 70], np.array(rgb(class_colour(0))) / 2, atol=1)
    assert made[111, 64].tolist() == rgb(class_colour(0))  # the lower edge
    assert made[50, 30].tolist() == [0, 0, 0]
    assert "1 images with 1 boxes" in picture.alt


def test_a_contact_sheet_is_brought_to_size():
    assert contact_sheet(np.zeros((0, 0, 3), np.uint8), 100) is None
    large = contact_sheet(np.zeros((300, 600, 3), np.uint8), 100)
    assert large is not None
    assert large.size == (100, 50)


def test_a_pair_of_crops_stands_beside_its_box() -> None:
    images = np.zeros((1, 32, 32, 3), np.uint8)
    images[:, :, 16:] = 255  # the right half is white
    halves = np.array([[[0, 0, 0.5, 1], [0.5, 0, 1, 1]]], np.float32)
    preview = {"images": images, "boxes": np.array([[0, 0, 1, 1.0]]), "pairs": halves}
    (picture,) = box_pictures(preview, 5, 32)
    assert picture.columns == ("crop box", "crop", "its pair")
    drawn = np.array(Image.open(io.BytesIO(picture.png)).convert("RGB"))
    assert drawn.shape[1] == 3 * 32 + 2 * GAP
    left, right = (drawn[4:28, start + 4 : start + 28] for start in (32 + GAP, 2 * (32 + GAP)))
    assert left.max() < 60
    assert right.min() > 200
