import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from contramask.data.decode import UnreadableImage, decode

NOISE = np.random.default_rng(0).integers(0, 256, (24, 36, 4), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_rgb_png_is_exact_and_without_notes() -> None:
    found = decode(encoded(Image.fromarray(NOISE[..., :3]), "PNG"), 8)
    np.testing.assert_array_equal(found.pixels, NOISE[..., :3])
    assert (found.facts.height, found.facts.width, found.facts.mode, found.facts.channels) == (
        24,
        36,
        "RGB",
        3,
    )
    assert (found.facts.bit_depth, found.facts.notes) == (8, ())
    assert len(found.facts.sha256) == 64


def test_grey_and_palette_become_rgb_without_loss() -> None:
    grey = decode(encoded(Image.fromarray(NOISE[..., 0]), "PNG"), 8)
    np.testing.assert_array_equal(grey.pixels, np.repeat(NOISE[..., :1], 3, axis=2))
    assert (grey.facts.mode, grey.facts.notes) == ("L", ())
    palette = Image.fromarray(NOISE[..., :3]).quantize(16)
    found = decode(encoded(palette, "PNG"), 8)
    np.testing.assert_array_equal(found.pixels, np.asarray(palette.convert("RGB")))
    assert found.facts.notes == ()


def test_transparent_parts_are_laid_on_white() -> None:
    pixels = NOISE.copy()
    pixels[..., 3] = 255
    pixels[:5, :, 3] = 0
    pixels[5, :, 3] = 128
    found = decode(encoded(Image.fromarray(pixels), "PNG"), 8)
    assert (found.pixels[:5] == 255).all()
    np.testing.assert_array_equal(found.pixels[6:], pixels[6:, :, :3])
    half = 0.5 * pixels[5, :, :3] + 0.5 * 255
    assert np.abs(found.pixels[5] - half).max() < 2
    assert "white" in found.facts.notes[0]
    opaque = np.dstack([NOISE[..., :3], np.full(NOISE.shape[:2], 255, np.uint8)])
    assert "opaque" in decode(encoded(Image.fromarray(opaque), "PNG"), 8).facts.notes[0]


def test_cmyk_is_converted_with_a_note() -> None:
    plain = np.full((24, 36, 3), (200, 40, 90), np.uint8)
    found = decode(encoded(Image.fromarray(plain).convert("CMYK"), "JPEG", quality=95), 8)
    assert np.abs(found.pixels.astype(int) - plain).max() < 12
    assert "CMYK" in found.facts.notes[0]


def test_sixteen_bit_grey_keeps_its_picture() -> None:
    ramp = np.linspace(300, 1300, 24 * 36).astype(np.uint16).reshape(24, 36)
    found = decode(encoded(Image.fromarray(ramp), "PNG"), 8)
    assert (found.facts.bit_depth, found.pixels.min(), found.pixels.max()) == (16, 0, 255)
    assert np.corrcoef(found.pixels[..., 0].ravel(), ramp.ravel())[0, 1] > 0.999
    assert "300 to 1300" in found.facts.notes[0]
    constant = decode(encoded(Image.fromarray(np.full((9, 9), 700, np.uint16)), "PNG"), 8)
    assert (constant.pixels == 255).all()


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_sixteen_bit_colour_is_stretched_too(extension: str) -> None:
    deep = np.random.default_rng(1).integers(0, 4096, (20, 30, 3)).astype(np.uint16)
    data = cv2.imencode(extension, deep[..., ::-1])[1].tobytes()
    found = decode(data, 8)
    assert found.facts.bit_depth == 16
    expected = (deep - deep.min()) / (deep.max() - deep.min()) * 255
    assert np.abs(found.pixels - expected).max() <= 0.51


def test_floating_point_tiff_with_missing_values() -> None:
    values = np.linspace(-2, 5, 400, dtype=np.float32).reshape(20, 20)
    values[0, 0] = np.nan
    found = decode(encoded(Image.fromarray(values), "TIFF"), 8)
    assert (found.facts.bit_depth, found.pixels.max()) == (32, 255)
    with pytest.raises(UnreadableImage, match="no finite value"):
        decode(encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"), 8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_camera_rotation_is_undone(orientation: int, kind: str) -> None:
    quadrants = np.zeros((32, 48, 3), np.uint8)
    quadrants[:16, :24], quadrants[:16, 24:], quadrants[16:, :24] = 250, 170, 90
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # what undoes the 270 degrees that a viewer applies
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = Image.fromarray(quadrants)
    stored = stored.transpose(turns[orientation]) if orientation > 1 else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(encoded(stored, kind, exif=exif), 16)
    assert (found.facts.height, found.facts.width) == (32, 48)
    assert np.abs(found.pixels.astype(int) - quadrants).mean() < 3


def test_large_jpeg_is_decoded_small_but_reported_whole() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decode(encoded(Image.new("RGB", (1600, 800), (9, 99, 199)), "JPEG", exif=exif), 32)
    assert (found.facts.height, found.facts.width) == (1600, 800)
    assert found.pixels.shape == (200, 100, 3)


def test_later_frames_are_left_out_with_a_note() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = decode(data, 8)
    assert found.pixels[0, 0].tolist() == [255, 0, 0]
    assert "3 frames" in found.facts.notes[0]


def bomb(side: int) -> bytes:
    """A valid PNG header that promises side x side pixels in a few bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 bytes"),
        (b"these are words", "not an image .*'these are wo'"),
        (encoded(Image.fromarray(NOISE[..., :3]), "JPEG")[:-400], "damaged"),
        (encoded(Image.fromarray(NOISE[..., :3]), "PNG")[:-900], "damaged"),
        (bomb(60_000), "over 178,956,970 pixels; .* fill the memory"),
        (bomb(10_000), "10000 x 10000 pixels; .* fill the memory"),
        (encoded(Image.new("RGB", (3, 5000)), "PNG"), "3 x 5000 pixels; sides below 8"),
        (encoded(Image.new("RGB", (500, 10)), "PNG"), "500 x 10 pixels; a side more than 20 times"),
    ],
    ids=["empty", "text", "cut-jpeg", "cut-png", "huge", "large", "line", "strip"],
)
def test_unusable_files_say_why(data: bytes, text: str) -> None:
    with pytest.raises(UnreadableImage, match=text):
        decode(data, 8)


def test_missing_file_and_wrong_array(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="cannot be opened"):
        decode(tmp_path / "gone.png", 8)
    with pytest.raises(UnreadableImage, match="float64"):
        decode(np.zeros((9, 9, 3)), 8)
    assert decode(NOISE[..., :3], 8).facts.notes == ()


def array_file(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def tiff(values: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("kind", ["npy last", "npy first", "tiff pages", "tiff planar"])
def test_any_number_of_channels(kind: str, dtype: type) -> None:
    values = np.random.default_rng(2).integers(0, 200, (24, 36, 5)).astype(dtype)
    values[0, 0, 0], values[0, 0, 1] = 0, 255
    first = np.moveaxis(values, 2, 0)
    data = {
        "npy last": lambda: array_file(values),
        "npy first": lambda: array_file(first),
        "tiff pages": lambda: tiff(first, photometric="minisblack"),
        "tiff planar": lambda: tiff(first, photometric="minisblack", planarconfig="separate"),
    }[kind]()
    found = decode(data, 8, channels=5)
    np.testing.assert_array_equal(found.pixels, values.astype(np.uint8))
    assert (found.facts.height, found.facts.width, found.facts.channels) == (24, 36, 5)
    assert found.facts.bit_depth == 8 * np.dtype(dtype).itemsize
    assert bool(found.facts.notes) == (dtype != np.uint8)
    with pytest.raises(UnreadableImage, match=r"5 channels.*keeps 4; set dataset\.channels=5"):
        decode(data, 8, channels=4)


def test_grey_and_colour_become_each_other() -> None:
    colour, grey = encoded(Image.fromarray(NOISE[..., :3]), "PNG"), NOISE[..., 0]
    found = decode(colour, 8, channels=1)
    expected = cv2.cvtColor(NOISE[..., :3], cv2.COLOR_RGB2GRAY)
    np.testing.assert_array_equal(found.pixels[..., 0], expected)
    np.testing.assert_array_equal(decode(array_file(grey), 8, 1).pixels[..., 0], grey)
    np.testing.assert_array_equal(decode(array_file(grey), 8).pixels[..., 2], grey)
    np.testing.assert_array_equal(decode(NOISE[..., :1], 8).pixels[..., 1], grey)


def test_an_alpha_channel_may_be_the_fourth_band() -> None:
    found = decode(encoded(Image.fromarray(NOISE), "PNG"), 8, channels=4)
    np.testing.assert_array_equal(found.pixels, NOISE)
    assert found.facts.notes == ()
    deep = cv2.imencode(".png", NOISE[..., [2, 1, 0, 3]].astype(np.uint16) * 257)[1].tobytes()
    np.testing.assert_array_equal(decode(deep, 8, 4, (0, 65_535)).pixels, NOISE)


def test_a_fixed_range_keeps_images_comparable() -> None:
    values = np.array([[0, 100], [500, 9000]], np.uint16).repeat(8, 0).repeat(8, 1)
    found = decode(encoded(Image.fromarray(values), "PNG"), 8, value_range=(0, 1000))
    assert found.pixels[..., 0][::8, ::8].tolist() == [[0, 26], [128, 255]]
    assert "values 0 to 9000; 0 to 1000 were mapped" in found.facts.notes[0]


def test_tiff_with_more_bands_than_colours() -> None:
    values = np.random.default_rng(2).integers(0, 256, (24, 36, 5), dtype=np.uint8)
    data = tiff(values, photometric="rgb")
    np.testing.assert_array_equal(decode(data, 8, channels=5).pixels, values)
    found = decode(data, 8)
    np.testing.assert_array_equal(found.pixels, values[..., :3])
    assert "5 channels, of which three" in " ".join(found.facts.notes)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (array_file(np.zeros((24, 36, 3), complex)), "complex128 and not numbers"),
        (array_file(np.zeros((2, 2, 24, 36))), "4 axes"),
        (array_file(np.zeros((24, 36)))[:-9], "more than the file can hold"),
        (array_file(np.array([{"a": 1}], dtype=object)), "not numbers"),
        (b"\x93NUMPY\x01\x00\x04\x00oops", "damaged"),
        (tiff(np.ones((99, 99, 5), np.uint8), photometric="rgb")[:-60], "ends before"),
    ],
    ids=["complex", "4d", "cut", "object", "header", "cut tiff"],
)
def test_unusable_arrays_say_why(data: bytes, text: str) -> None:
    with pytest.raises(UnreadableImage, match=text):
        decode(data, 8, channels=5)


def test_images_that_are_fetched() -> None:
    data = encoded(Image.fromarray(NOISE[..., :3]), "PNG")
    np.testing.assert_array_equal(decode(lambda: data, 8).pixels, NOISE[..., :3])

    def fail() -> bytes:
        raise PermissionError(13, "Permission denied")

    with pytest.raises(UnreadableImage, match=r"cannot be opened \(Permission denied\)"):
        decode(fail, 8)


def test_no_other_program_is_run_for_an_image() -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n"
    with pytest.raises(UnreadableImage, match="not an image"):
        decode(page, 8)
