"""Image files as a source of pixels, without packing them into a store first."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from contramask.data.build import TOLERATED_PROBLEMS
from contramask.data.config import DatasetConfig
from contramask.data.prepare import prepare
from contramask.data.readers.folder import images_in
from contramask.data.readers.layout import EXTENSIONS
from contramask.data.record import Record
from contramask.data.tree import FileTree


class ImageFiles:
    """Images decoded when asked for, as the data stage packs them: short side resized, centre cut.

    What cannot be read comes as black pixels and is noted in `problems` by row number; from 20
    such images on, a share above `max_problem_share` of all raises `ValueError`.
    """

    def __init__(
        self, paths: Sequence[Path], side: int, max_problem_share: float = 0.05, channels: int = 3
    ) -> None:
        self.paths, self.max_problem_share = paths, max_problem_share
        self.config = DatasetConfig(image_size=(side, side), channels=channels)
        self.labels = np.full(len(paths), -1, dtype=np.int64)
        self.problems: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (B, side, side, channels)."""
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            # Pillow's own warnings (large image, odd EXIF) would name no file.
            warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
            pixels = np.stack(list(pool.map(self._pixels, np.asarray(indices).tolist())))
        allowed = self.max_problem_share * len(self)
        if len(self.problems) >= TOLERATED_PROBLEMS and len(self.problems) > allowed:
            raise ValueError(
                f"{len(self.problems)} of {len(self)} images cannot be used so far, more than the "
                f"allowed share {self.max_problem_share:g}. The first ones:\n"
                f"{self.listed_problems()}"
            )
        return pixels

    def listed_problems(self, count: int = 5) -> str:
        """The first problems, a line each."""
        first = sorted(self.problems)[:count]
        return "\n".join(f"  - {self.paths[row]} {self.problems[row]}" for row in first)

    def _pixels(self, row: int) -> np.ndarray:
        path = self.paths[row]
        prepared = prepare(Record(id=str(path), image=path, split="val"), "val", self.config)
        if prepared.pixels is None:
            self.problems[row] = prepared.problem
            return np.zeros((*self.config.image_size, self.config.channels), dtype=np.uint8)
        return prepared.pixels


def find_image_files(given: Path) -> list[Path]:
    """The files that one path stands for, each openable from the current folder.

    A folder means all images in it at any depth, sorted; a file whose name ends as an image's means
    itself; any other file is a text with one path a line. Raises `ValueError` when there is none.
    """
    if given.is_dir():
        tree = FileTree(given)
        images = (tree.image(name) for name in images_in(tree))
        found = [image for image in images if isinstance(image, Path)]  # not those in zip files
    elif given.suffix.lower() in EXTENSIONS:
        found = [given]
    else:
        found = _listed(given)
    if not found:
        raise ValueError(
            f"{given} holds no images; give a folder with {' '.join(sorted(EXTENSIONS))} files, "
            "one such file, or a text file with one path a line"
        )
    return found


def _listed(path: Path) -> list[Path]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is neither a text file of paths nor an image by its name; images end in "
            f"{' '.join(sorted(EXTENSIONS))}"
        ) from None
    return [Path(line.strip()) for line in text.splitlines() if line.strip()]
