import io

import numpy as np
import pytest
from PIL import Image

from contramask.data.masks import found_code, mask_code, mask_values, read_semantic
from contramask.data.record import UnreadableImage
from contramask.data.tree import FileTree

GREY = np.array([[0, 1, 2], [7, 255, 1]], np.uint8)


def _png(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


def test_values_become_classes_and_equal_names_one() -> None:
    code = mask_code([(0, "sky"), (1, "Void"), (2, "road"), (7, "sky")], is_colour=False)
    found, strange = code.classify(GREY.astype(np.int64))
    assert code.classes == ["sky", "road"]
    assert found.tolist() == [[0, 255, 1], [0, 255, 255]]
    assert strange == 0
    assert code.classify(np.array([[9, 255]]))[1] == 1


def test_number_of_classes_is_limited() -> None:
    with pytest.raises(ValueError, match="1 to 254 classes, and 0 are named"):
        mask_code([(0, "void")], is_colour=False)
    with pytest.raises(ValueError, match="255 are named"):
        mask_code([(i, str(i)) for i in range(255)], is_colour=False)


def test_values_of_every_kind_of_file() -> None:
    np.testing.assert_array_equal(mask_values(_png(GREY), is_colour=False), GREY)
    palette = Image.fromarray(GREY)
    palette.putpalette([9, 9, 9] * 256)
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    np.testing.assert_array_equal(mask_values(stream.getvalue(), is_colour=False), GREY)
    assert (mask_values(stream.getvalue(), is_colour=True) == 9 * 65_793).all()
    deep = GREY.astype(np.uint16) * 200
    np.testing.assert_array_equal(mask_values(_png(deep), is_colour=False), deep)
    np.testing.assert_array_equal(mask_values(_png(GREY > 1), is_colour=False), GREY > 1)
    repeated = np.dstack([GREY] * 3)
    np.testing.assert_array_equal(mask_values(_png(repeated), is_colour=False), GREY)
    colour = np.array([[[1, 2, 3]]], np.uint8)
    assert mask_values(_png(colour), is_colour=True) == 65_536 + 512 + 3
    with pytest.raises(UnreadableImage, match="is a colour picture"):
        mask_values(_png(colour), is_colour=False)
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        mask_values(b"words", is_colour=False)


def test_classes_from_the_masks_themselves() -> None:
    assert found_code([_png(GREY), b"words"]).classes == [
        "class 0",
        "class 1",
        "class 2",
        "class 7",
    ]
    both = found_code([_png(np.array([[0, 255]], np.uint8))])
    assert both.classify(np.array([[0, 255]]))[0].tolist() == [[0, 1]]
    colours = found_code(
        [_png(np.array([[[1, 2, 3]]], np.uint8)), _png(np.zeros((2, 2), np.uint8))]
    )
    assert (colours.classes, colours.is_colour) == (["#000000", "#010203"], True)
    with pytest.raises(ValueError, match="more values than classes can be"):
        found_code([_png(np.arange(256, dtype=np.uint8)[None])])


def test_a_mask_that_cannot_be_used_is_noted(tmp_path) -> None:
    (tmp_path / "m.png").write_bytes(b"words")
    code = mask_code([(0, "a")], is_colour=False)
    tree = FileTree(tmp_path)
    found, notes = read_semantic(tree, "m.png", code)
    assert found is None
    assert notes[0].startswith("has a mask m.png that was left out: it cannot be decoded")
    (tmp_path / "m.png").unlink()
    assert "cannot be opened (No such file" in read_semantic(tree, "m.png", code)[1][0]
