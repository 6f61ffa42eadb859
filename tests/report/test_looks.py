import io

import numpy as np
import pandas as pd
from PIL import Image

from contramask.report import looks
from contramask.report.sections import Owner
from contramask.report.tables import Stage
from contramask.results import StageOutput

NASTY = "<script>alert(1)</script>"


def owner(variant, arrays=None, tables=None, key="mae"):
    output = StageOutput(
        arrays={f"{key}/{name}": array for name, array in (arrays or {}).items()},
        tables={f"{key}-{name}": table for name, table in (tables or {}).items()},
    )
    return Owner(variant, key, Stage("mae-s0", "probe", output))


def seen(seed=0, count=3):
    rng = np.random.default_rng(seed)
    return {
        "look_images": np.zeros((count, 16, 16, 3), np.uint8),
        "look_attention": rng.random((count, 2, 4, 4)).astype(np.float16),
        "look_colours": rng.random((count, 4, 4, 3)).astype(np.float16),
    }


def near(same):
    count = len(same)
    return {
        "query": np.zeros(count, int),
        "rank": np.arange(1, count + 1),
        "truth": 1,
        "label": [1 if each else 0 for each in same],
        "similarity": np.linspace(0.9, 0.8, count),
        "same": same,
    }


def pixels(picture):
    return np.array(Image.open(io.BytesIO(picture.png)).convert("RGB"))


def test_encoders_stand_side_by_side_over_the_same_images():
    owners = [owner("random init", seen(0)), owner("MAE", seen(1))]
    (attention,) = looks.look_pictures(owners, looks.KINDS[0], 2, 32)
    assert attention.columns == ("image", "random init", "MAE")
    assert attention.size == (3 * 36 - 4, 2 * 36 - 4)
    assert "2 rows of images" in attention.alt
    (colours,) = looks.look_pictures(owners, looks.KINDS[1], 2, 32)
    wanted = np.uint8(255 * seen(0)["look_colours"][0].astype(float))
    assert np.array_equal(pixels(colours)[:32:8, 36:68:8], wanted)
    assert looks.look_pictures(owners, looks.KINDS[2], 2, 32) == []


def test_other_images_and_many_encoders_are_drawn_apart():
    other = {**seen(), "look_images": np.ones((3, 16, 16, 3), np.uint8)}
    owners = [*(owner(f"v{i}", seen(i)) for i in range(7)), owner("other", other)]
    drawn = looks.look_pictures(owners, looks.KINDS[0], 1, 16)
    assert [len(picture.columns) - 1 for picture in drawn] == [6, 1, 1]
    assert len({picture.name for picture in drawn}) == 3


def test_bright_is_where_the_attention_is():
    heads = np.zeros((2, 4, 4), np.float16)
    heads[:, 0, 3] = 0.5
    tile = looks.attention_tile(np.zeros((16, 16, 3), np.uint8), heads, 32).sum(axis=2)
    assert np.unravel_index(tile.argmax(), tile.shape)[0] < 8
    assert np.unravel_index(tile.argmax(), tile.shape)[1] >= 24


def test_even_attention_of_any_grid_gives_a_tenth():
    even, peak = np.full((2, 3, 4, 4), 1 / 16), np.zeros((2, 1, 4, 4))
    peak[:, :, 0, 0] = 1
    arrays = {"look_attention": even, "attention_ep": peak}
    table = looks.concentration([owner("MAE", arrays), owner("bare")])
    assert table is not None
    assert [row[:2] for row in table.rows] == [("MAE", "10 %")]
    assert looks.concentration([owner("bare")]) is None


def test_right_and_wrong_neighbours_differ_without_colour():
    arrays = {
        "near_queries": np.zeros((1, 16, 16, 3), np.uint8),
        "near_images": np.zeros((1, 2, 16, 16, 3), np.uint8),
    }
    tables = {"near": pd.DataFrame(near([True, False]))}
    own = owner("MAE", arrays, tables)
    picture = looks.near_picture(own, ["a", NASTY], 5, 40)
    assert picture is not None
    assert picture.columns == ("query", "1", "2")
    assert f"query of class {NASTY}: 1 of 2" in picture.alt
    assert picture.title.startswith("MAE: 1 of 2")
    side = (picture.size[0] - 8) // 3
    right, wrong = (pixels(picture)[:side, i * (side + 4) :][:, :side] for i in (1, 2))
    edge = [len(np.unique(tile[-1], axis=0)) for tile in (right, wrong)]
    assert edge == [1, 2]  # full and dashed
    (table,) = looks.near_tables([own], lambda stage: ["a", NASTY])
    assert table.rows == ((f"1: {NASTY}", f"{NASTY} (0.90), a (0.80)"),)
    assert looks.near_picture(owner("MAE"), [], 5, 40) is None
    assert looks.near_tables([owner("MAE")], lambda stage: []) == []


def test_neighbours_of_other_queries_stand_in_a_table_of_their_own():
    def asked(variant, shade, truth=1, queries=True):
        images = {"near_queries": np.full((1, 16, 16, 3), shade, np.uint8)} if queries else {}
        return owner(variant, images, {"near": pd.DataFrame(near([True])).assign(truth=truth)})

    owners = [asked("MAE", 0), asked("other data", 9), asked("CMAE", 0), asked("fewer", 0, 0)]
    tables = looks.near_tables(owners, lambda stage: ["a", "b"])
    assert [table.columns[1:] for table in tables] == [("MAE", "CMAE"), ("other data",), ("fewer",)]
    assert tables[2].rows[0][0] == "1: a"
    older = [asked("MAE", 0, queries=False), asked("CMAE", 0, queries=False)]
    assert len(looks.near_tables(older, lambda stage: [])) == 1


def test_mistakes_are_named_in_words():
    worst = {"row": [4, 2], "id": ["x", "y"], "truth": [0, 1], "predicted": [1, 0]}
    tables = {"worst": pd.DataFrame({**worst, "probability": [97.3, 80.0]})}
    arrays = {"worst_images": np.zeros((2, 8, 8, 3), np.uint8)}
    first, second = looks.mistakes(owner("MAE", arrays, tables), ["cat", "dog"], 6, 32)
    assert first.title == "cat taken for dog, 97\N{NO-BREAK SPACE}% sure"
    assert "validation image y" in second.alt
    assert looks.mistakes(owner("MAE"), [], 6, 32) == []
