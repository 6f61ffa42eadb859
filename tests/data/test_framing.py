import numpy as np
import pytest

from contramask.data.framing import Frame, tight_box
from contramask.data.record import Instance


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (31, 97), (500, 40), (20, 20), (33, 34)])
def test_everything_becomes_the_square(size: tuple[int, int]) -> None:
    frame = Frame(*size, size=(32, 32))
    assert frame.pixels(np.zeros((*size, 3), np.uint8)).shape == (32, 32, 3)
    assert frame.mask(np.zeros(size, np.uint8)).shape == (32, 32)
    assert min(frame.resized) == 32


def test_equal_size_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(Frame(32, 32, (32, 32)).pixels(image), image)


def test_shrinking_averages() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (Frame(64, 64, (32, 32)).pixels(stripes) == 100).all()


def test_mask_keeps_classes_and_box_follows_it() -> None:
    semantic = np.zeros((64, 96), np.uint8)
    semantic[16:32, 40:60] = 255
    frame = Frame(64, 96, (32, 32))  # to 32 x 48, then 8 columns off each side
    assert set(np.unique(frame.mask(semantic))) == {0, 255}
    instance = frame.instance(Instance(3, (40, 16, 60, 32), semantic > 0))
    assert instance is not None
    assert instance.box == (12, 8, 22, 16)
    assert instance.mask is not None
    assert tight_box(instance.mask) == instance.box
    boxed = frame.instance(Instance(3, (40, 16, 60, 32), None))
    assert boxed is not None
    assert boxed.box == (12, 8, 22, 16)
    assert boxed.mask is None


def test_what_the_crop_cuts_away_is_dropped() -> None:
    frame = Frame(64, 96, (32, 32))
    mask = np.zeros((64, 96), bool)
    mask[:, :14] = True
    assert frame.instance(Instance(0, (0, 0, 14, 64), mask)) is None
    assert frame.instance(Instance(0, (0, 0, 16.5, 64))) is None
    part = frame.instance(Instance(0, (0, 0, 20, 64)))
    assert part is not None
    assert part.box == (0, 0, 2, 32)


def test_a_rectangle_is_filled_or_padded() -> None:
    image = np.full((60, 100, 3), 7, np.uint8)
    filled = Frame(60, 100, (32, 32))
    assert filled.pixels(image).shape == (32, 32, 3)
    assert (filled.pixels(image) == 7).all()
    padded = Frame(60, 100, (40, 50), "pad")  # to 30 x 50, five rows free above and below
    assert padded.resized == (30, 50)
    framed = padded.pixels(image)
    assert framed.shape == (40, 50, 3)
    assert not framed[:5].any()
    assert not framed[35:].any()
    assert (framed[5:35] == 7).all()
    assert (padded.content(framed) == 7).all()
    assert padded.content(framed).shape == (30, 50, 3)
    wide = Frame(60, 100, (16, 64))  # the width decides, then rows are cut
    assert wide.resized == (38, 64)
    assert wide.pixels(image).shape == (16, 64, 3)


def test_padding_moves_boxes_and_is_no_class() -> None:
    semantic = np.ones((60, 100), np.uint8)
    frame = Frame(60, 100, (40, 50), "pad")
    framed = frame.mask(semantic, border=255)
    assert set(np.unique(framed[:5])) == {255}
    assert set(np.unique(framed[5:35])) == {1}
    boxed = frame.instance(Instance(3, (0, 0, 100, 60), None))
    assert boxed is not None
    assert boxed.box == (0, 5, 50, 35)
    masked = frame.instance(Instance(3, (0, 0, 100, 60), semantic > 0))
    assert masked is not None
    assert masked.box == (0, 5, 50, 35)
    assert masked.mask is not None
    assert masked.mask.shape == (40, 50)
