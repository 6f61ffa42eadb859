"""Image files without a store: which they are, and what becomes of unreadable ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig
from contramask.data.image_files import ImageFiles, find_image_files


def photographs(folder: Path, count: int = 6) -> list[Path]:
    """Random images of many sizes in nested folders, PNG and JPEG in turn."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        height, width = rng.integers(20, 90, 2)
        path = folder / f"part {i % 3}" / f"{i:02}.{'png' if i % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((int(width), int(height))).save(path)
        paths.append(path)
    return sorted(paths)


def test_pixels_are_those_the_data_stage_packs(tmp_path: Path) -> None:
    paths = photographs(tmp_path / "images")
    config = DatasetConfig(
        source="folder", root=tmp_path / "images", image_size=32, val_fraction=0, workers=1
    )
    store = build_dataset(config, tmp_path / "work").store
    files = ImageFiles(find_image_files(tmp_path / "images"), 32)
    assert files.paths == paths
    assert np.array_equal(files.__getitems__(np.arange(6)), store["train"].__getitems__(range(6)))
    assert np.array_equal(files.__getitems__(np.array([4, 1])), store["train"].__getitems__([4, 1]))


def test_one_image_and_a_list_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = photographs(tmp_path / "images")
    assert find_image_files(paths[3]) == [paths[3]]
    monkeypatch.chdir(tmp_path)
    shown = paths[2].relative_to(tmp_path)
    (tmp_path / "list.txt").write_text(f"{paths[5]}\n\n  {shown}\n{paths[5]}\n")
    assert find_image_files(Path("list.txt")) == [paths[5], shown, paths[5]]
    assert ImageFiles(find_image_files(Path("list.txt")), 16).__getitems__(np.arange(3)).any()


def test_what_holds_no_images_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"empty holds no images; give a folder with \.avif"):
        find_image_files(tmp_path / "empty")
    (tmp_path / "list.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"list\.txt holds no images"):
        find_image_files(tmp_path / "list.txt")
    (tmp_path / "bytes.raw").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"neither a text file of paths nor an image"):
        find_image_files(tmp_path / "bytes.raw")
    with pytest.raises(FileNotFoundError):
        find_image_files(tmp_path / "nowhere")


def test_unreadable_images_are_noted_and_black(tmp_path: Path) -> None:
    paths = photographs(tmp_path)
    paths[1].write_bytes(b"no image at all")
    files = ImageFiles([*paths, tmp_path / "gone.png"], 16)
    pixels = files.__getitems__(np.arange(7))
    assert pixels.shape == (7, 16, 16, 3)
    assert sorted(files.problems) == [1, 6]
    assert "is not an image Pillow knows" in files.problems[1]
    assert "cannot be opened" in files.listed_problems()
    assert not pixels[[1, 6]].any()
    assert pixels[[0, 2, 3, 4, 5]].any(axis=(1, 2, 3)).all()


def test_too_many_unreadable_images_stop_it(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(40)]
    few = ImageFiles(paths[:19], 16)
    few.__getitems__(np.arange(19))  # fewer than 20 never stop it
    assert len(few.problems) == 19
    with pytest.raises(ValueError, match=r"20 of 40 images cannot .* share 0\.05\. The first"):
        ImageFiles(paths, 16).__getitems__(np.arange(20))
    ImageFiles(paths, 16, max_problem_share=1).__getitems__(np.arange(40))
