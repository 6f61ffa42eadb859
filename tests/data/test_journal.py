"""A build that is killed goes on where it was, and only with the same files and configuration."""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from contramask.data import build, journal
from contramask.data.build import BuiltDataset, build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig

SCENES = DatasetConfig(scenes=ScenesConfig(num_train=100, num_val=30), workers=2)
#: Builds in a process of its own, which kills itself at an image.
KILLED = """
import os, signal, sys
from pathlib import Path
from contramask.data import build, journal
from contramask.data.config import DatasetConfig, ScenesConfig
journal.PIECE_SECONDS = 0
real, seen = build.prepare, []
def prepare(*given):
    seen.append(1)
    if len(seen) == 90:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given)
build.prepare = prepare
config = DatasetConfig(scenes=ScenesConfig(num_train=100, num_val=30), workers=2)
build.build_dataset(config, Path(sys.argv[1]))
"""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the images that are decoded from here on."""
    real, seen = build.prepare, list[str]()

    def prepare(record, *given):
        seen.append(record.id)
        return real(record, *given)

    monkeypatch.setattr(build, "prepare", prepare)
    return seen


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def assert_same(found: BuiltDataset, expected: BuiltDataset) -> None:
    assert digest(found.store.folder) == digest(expected.store.folder)
    pd.testing.assert_frame_equal(found.index, expected.index)
    pd.testing.assert_frame_equal(found.problems, expected.problems)
    assert found.card == expected.card


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """60 pictures in two class folders, two of them damaged, one grey of 16 bits."""
    rng = np.random.default_rng(0)
    for i in range(60):
        path = tmp_path / "in" / "ab"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    (tmp_path / "in" / "a" / "10.png").write_bytes(b"no picture")
    (tmp_path / "in" / "b" / "51.png").write_bytes(b"")
    deep = rng.integers(0, 65536, (20, 24), np.uint16)
    Image.fromarray(deep).save(tmp_path / "in" / "a" / "12.png")
    return tmp_path / "in"


def folder_config(root: Path) -> DatasetConfig:
    return DatasetConfig(source="folder", root=root, labels="folders", workers=1, image_size=16)


def test_a_killed_build_ends_bit_for_bit_as_if_it_had_not_been(
    tmp_path: Path, counted: list[str]
) -> None:
    expected = build_dataset(SCENES, tmp_path / "whole")
    whole = len(counted)
    counted.clear()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert list((tmp_path / "killed" / "pieces").glob("*.json"))
    found = build_dataset(SCENES, tmp_path / "killed")
    assert len(counted) < whole - 40
    assert_same(found, expected)
    assert not (tmp_path / "killed" / "pieces").exists()


def test_killed_twice_with_unreadable_images_among_them(
    tmp_path: Path,
    pictures: Path,
    counted: list[str],
    kill_at: Callable[[DatasetConfig, Path, int], None],
) -> None:
    config = folder_config(pictures)
    expected = build_dataset(config, tmp_path / "whole")
    for image in (45, 10):
        kill_at(config, tmp_path / "killed", image)
    counted.clear()
    found = build_dataset(replace(config, workers=2), tmp_path / "killed")
    assert len(counted) == 12
    assert len(found.problems) == 3
    assert_same(found, expected)


def test_a_changed_image_or_configuration_starts_anew(
    tmp_path: Path,
    pictures: Path,
    counted: list[str],
    kill_at: Callable[[DatasetConfig, Path, int], None],
) -> None:
    config, work = folder_config(pictures), tmp_path / "killed"
    kill_at(config, work, 50)
    counted.clear()
    Image.new("RGB", (20, 24), "red").save(pictures / "a" / "00.png")
    found = build_dataset(config, work)
    assert len(counted) == 60
    assert (found.store["train"][found.store["train"].ids.index("a/00.png")] == [255, 0, 0]).all()
    kill_at(config, work, 50)
    counted.clear()
    build_dataset(replace(config, image_size=24), work)
    assert len(counted) == 60


def test_pixels_that_were_altered_since_are_made_anew(
    tmp_path: Path,
    pictures: Path,
    counted: list[str],
    kill_at: Callable[[DatasetConfig, Path, int], None],
) -> None:
    config, work = folder_config(pictures), tmp_path / "killed"
    expected = build_dataset(config, tmp_path / "whole")
    kill_at(config, work, 50)
    with (work / "store" / "train" / "images.npy").open("r+b") as stream:
        stream.seek(128 + 10 * 16 * 16 * 3)  # the eleventh image
        stream.write(b"\0" * 50)
    counted.clear()
    assert_same(build_dataset(config, work), expected)
    assert 40 < len(counted) < 60


def test_a_damaged_piece_and_a_lost_file_are_no_obstacle(
    tmp_path: Path,
    pictures: Path,
    counted: list[str],
    kill_at: Callable[[DatasetConfig, Path, int], None],
) -> None:
    config, work = folder_config(pictures), tmp_path / "killed"
    expected = build_dataset(config, tmp_path / "whole")
    kill_at(config, work, 50)
    last = sorted((work / "pieces").glob("*.json"))[-1]
    last.write_text(last.read_text()[:100])
    assert_same(build_dataset(config, work), expected)
    kill_at(config, work, 50)
    (work / "store" / "train" / "images.npy").unlink()
    assert_same(build_dataset(config, work), expected)


def test_short_builds_write_no_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal.Journal, "_pieces", lambda self: iter(()))
    monkeypatch.setattr(journal.json, "dump", None)
    assert build_dataset(SCENES, tmp_path).card["splits"] == {"train": 100, "val": 30}
