"""Damaged, odd and hostile image files through the dataset stage: none may end it.

`CONTRAMASK_FUZZ=2000` mutates that many files instead of a few, `CONTRAMASK_FUZZ_SEED` others.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from contramask.data.build import BuiltDataset, build_dataset
from contramask.data.config import DatasetConfig
from contramask.data.survey import survey

COUNT = int(os.environ.get("CONTRAMASK_FUZZ", "200"))
SEED = int(os.environ.get("CONTRAMASK_FUZZ_SEED", "0"))
CONTROLS = 5
KINDS = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}
KINDS |= {"WEBP": ".webp", "PPM": ".ppm", "JPEG2000": ".jp2"}
Mutant = tuple[str, bytes]  # file ending and content
Rng = np.random.Generator


def _noise(rng: Rng, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape or (24, 40, 3), dtype=np.uint8)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _whole(rng: Rng) -> Mutant:
    """A good file of any kind."""
    kind = str(rng.choice([*KINDS, "NPY", "BANDS"]))
    if kind == "NPY":
        stream = io.BytesIO()
        np.save(stream, _noise(rng))
        return ".npy", stream.getvalue()
    if kind == "BANDS":
        stream = io.BytesIO()
        tifffile.imwrite(stream, _noise(rng, 5, 24, 40), photometric="minisblack")
        return ".tif", stream.getvalue()
    image = Image.fromarray(_noise(rng))
    return KINDS[kind], _saved(image, kind, **({"quality": 90} if kind == "JPEG" else {}))


def _cut(rng: Rng) -> Mutant:
    ending, data = _whole(rng)
    return ending, data[: int(rng.integers(len(data)))]


def _flipped(rng: Rng) -> Mutant:
    ending, data = _whole(rng)
    changed = np.frombuffer(data, np.uint8).copy()
    reach = len(changed) if rng.random() < 0.5 else min(64, len(changed))  # or the header alone
    places = rng.integers(reach, size=int(rng.integers(1, 30)))
    changed[places] ^= (1 << rng.integers(8, size=len(places))).astype(np.uint8)
    return ending, changed.tobytes()


def _blanked(rng: Rng) -> Mutant:
    ending, data = _whole(rng)
    start, stop = np.sort(rng.integers(len(data), size=2))
    return ending, data[:start] + bytes(stop - start) + data[stop:]


def _called_otherwise(rng: Rng) -> Mutant:
    return str(rng.choice([*KINDS.values(), ".npy"])), _whole(rng)[1]


def _only_a_start(rng: Rng) -> Mutant:
    ending, data = _whole(rng)
    return ending, data[:12] + rng.bytes(int(rng.integers(2000)))


def _empty(rng: Rng) -> Mutant:
    return str(rng.choice([*KINDS.values()])), b""


def _with_a_tail(rng: Rng) -> Mutant:
    ending, data = _whole(rng)
    return ending, data + rng.bytes(500)


def _huge(rng: Rng) -> Mutant:
    """A file of a few bytes that declares very many pixels."""
    side = int(rng.integers(9_000, 2**31 - 1))
    kind = str(rng.choice(["PNG", "BMP", "PPM", "NPY"]))
    if kind == "PNG":
        body = struct.pack(">IIBBBBB", side, side, int(rng.choice([8, 16])), 2, 0, 0, 0)
        chunks = [(b"IHDR", body), (b"IDAT", zlib.compress(bytes(99))), (b"IEND", b"")]
        data = b"\x89PNG\r\n\x1a\n"
        for name, content in chunks:
            check = struct.pack(">I", zlib.crc32(name + content))
            data += struct.pack(">I", len(content)) + name + content + check
        return ".png", data
    if kind == "BMP":
        data = bytearray(_saved(Image.fromarray(_noise(rng)), "BMP"))
        data[18:26] = struct.pack("<ii", side, side)
        return ".bmp", bytes(data)
    if kind == "PPM":
        return ".ppm", f"P6 {side} {side} 255\n".encode() + bytes(99)
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (side, side)}
    )
    return ".npy", stream.getvalue() + bytes(99)


def _deep(rng: Rng) -> Mutant:
    values = rng.integers(0, 65_536, (24, 40), dtype=np.uint16)
    kind = str(rng.choice(["PNG", "TIFF"]))
    return KINDS[kind], _saved(Image.fromarray(values), kind)


def _print_colours(rng: Rng) -> Mutant:
    kind = str(rng.choice(["JPEG", "TIFF"]))
    return KINDS[kind], _saved(Image.fromarray(_noise(rng)).convert("CMYK"), kind)


def _clear(rng: Rng) -> Mutant:
    kind = str(rng.choice(["PNG", "WEBP", "TIFF"]))
    return KINDS[kind], _saved(Image.fromarray(_noise(rng, 24, 40, 4)), kind)


def _clear_palette(rng: Rng) -> Mutant:
    image = Image.fromarray(_noise(rng)).quantize(16)
    clear = int(rng.integers(16)) if rng.random() < 0.5 else rng.bytes(16)
    return ".png", _saved(image, "PNG", transparency=clear)


def _turned(rng: Rng) -> Mutant:
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 12))  # 1 to 8 are allowed
    data = _saved(Image.fromarray(_noise(rng)), "JPEG", exif=exif, quality=90)
    return ".jpg", data.replace(b"Exif", b"Exi\xff") if rng.random() < 0.2 else data


def _line(rng: Rng) -> Mutant:
    size = (1, int(rng.integers(1, 9000)))
    size = size if rng.random() < 0.5 else size[::-1]
    kind = str(rng.choice(["JPEG", "PNG", "GIF", "BMP", "TIFF"]))
    return KINDS[kind], _saved(Image.fromarray(_noise(rng, *size, 3)), kind)


def _moving(rng: Rng) -> Mutant:
    frames = [Image.fromarray(_noise(rng)) for _ in range(3)]
    data = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return ".gif", data[: len(data) - int(rng.integers(900))]


#: What is done to files, and what must come of it: whole, converted, skipped, or anything (None).
MUTATIONS: list[tuple[Callable[[Rng], Mutant], str | None]] = [
    *((_cut, None), (_flipped, None), (_flipped, None), (_blanked, None)),
    *((_called_otherwise, None), (_only_a_start, None), (_empty, "skipped"), (_with_a_tail, None)),
    *((_huge, "skipped"), (_deep, "converted"), (_print_colours, "converted")),
    *((_clear, "converted"), (_clear_palette, "converted"), (_turned, None)),
    *((_line, "skipped"), (_moving, None)),
]


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str | None]]:
    """A folder of mutated files among a few good ones, and what is expected of each."""
    folder = tmp_path_factory.mktemp("mutants")
    rng = np.random.default_rng(SEED)
    expected: dict[str, str | None] = {}
    for i in range(COUNT):
        mutate, outcome = MUTATIONS[i % len(MUTATIONS)]
        ending, data = mutate(rng)
        name = f"{i:05}{mutate.__name__}{ending}"
        (folder / name).write_bytes(data)
        expected[name] = outcome
    for i in range(CONTROLS):
        Image.fromarray(_noise(rng, 32, 32, 3)).save(folder / f"good_{i}.png")
        expected[f"good_{i}.png"] = "whole"
    return folder, expected


@pytest.fixture(scope="module")
def built(
    mutants: tuple[Path, dict[str, str | None]], tmp_path_factory: pytest.TempPathFactory
) -> BuiltDataset:
    config = DatasetConfig(
        source="folder", root=mutants[0], val_fraction=0, max_problem_share=1, workers=2
    )
    return build_dataset(config, tmp_path_factory.mktemp("work"))


def test_every_file_is_used_or_named_with_a_reason(
    mutants: tuple[Path, dict[str, str | None]], built: BuiltDataset
) -> None:
    actions = dict(zip(built.problems["id"], built.problems["action"], strict=True))
    outcome = {name: actions.get(name, "whole") for name in mutants[1]}
    wrong = {n: outcome[n] for n, wanted in mutants[1].items() if wanted not in (None, outcome[n])}
    assert wrong == {}
    skipped = {name for name, action in outcome.items() if action == "skipped"}
    assert set(built.store["train"].ids) == set(mutants[1]) - skipped
    assert len(built.index) == COUNT + CONTROLS
    texts = built.problems["problem"]
    assert texts.str.len().between(10, 600).all()
    assert built.card["unreadable"] == len(skipped) >= COUNT // 10


def test_good_files_among_them_are_untouched(
    mutants: tuple[Path, dict[str, str | None]], built: BuiltDataset
) -> None:
    split = built.store["train"]
    for i in range(CONTROLS):
        with Image.open(mutants[0] / f"good_{i}.png") as image:
            row = split.ids.index(f"good_{i}.png")
            np.testing.assert_array_equal(split[row], np.asarray(image))


def test_inspection_says_the_same(
    mutants: tuple[Path, dict[str, str | None]], built: BuiltDataset
) -> None:
    found = survey(mutants[0], 0, lambda items, description, total: items)
    skipped = {p["id"] for p in found["problems"] if p["action"] == "skipped"}
    assert skipped == set(built.problems.loc[built.problems["action"] == "skipped", "id"])
