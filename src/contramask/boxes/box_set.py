"""A box set: one crop box for each train image, its evidence, and the judgement about the whole."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from contramask.boxes.rules import CORNERS, WHOLE

SCHEMA = 1

#: Columns of the table, one row a train image in the store's order.
COLUMNS = [
    "image_id",
    "split",
    *CORNERS,
    "score",
    "method",
    "is_fallback",
    "fallback_reason",
    "box_area",
    "binds",
    "heat_peak_ratio",
    "heat_entropy",
    "n_components",
]
_REBUILD = "run the crop_boxes stage again to rebuild the box set"


@dataclass(frozen=True)
class BoxSet:
    """Immutable result of the box stage; a training names it by `manifest["box_set_id"]`.

    On disk: `boxes.parquet`, `heatmaps.npy`, `manifest.json`, `preview.npz`. Equal inputs give
    equal bytes, so there is no time stamp.
    """

    table: pd.DataFrame  # COLUMNS
    heatmaps: np.ndarray  # uint8 (N, g, g), 255 = most likely object
    manifest: dict[str, Any]
    #: images uint8 (n, H, W, C), boxes float32 (n, 4), heatmaps uint8 (n, g, g), rows int64 (n,),
    #: truth float32 (n, 4): the largest true box, NaN where there is none
    preview: dict[str, np.ndarray]

    @property
    def accepted(self) -> bool:
        """Whether the set passed the gates."""
        return bool(self.manifest["accepted"])

    @property
    def reasons(self) -> list[str]:
        """Why the set was refused, or what an accepted one cannot do."""
        return list(self.manifest["reasons"])

    @property
    def boxes(self) -> np.ndarray:
        """The boxes as found, (N, 4) float32, in the order of the store's train split."""
        boxes: np.ndarray = self.table[CORNERS].to_numpy(dtype=np.float32)
        return boxes

    def training_boxes(self) -> np.ndarray:
        """The boxes to crop by, (N, 4) float32; for a refused set as its `on_alarm` says.

        `stop` raises `ValueError` with the reasons, `keep` gives the boxes all the same, and `full`
        whole images (crops then ignore the boxes).
        """
        if self.accepted or self.manifest["on_alarm"] == "keep":
            return self.boxes
        if self.manifest["on_alarm"] == "full":
            return np.tile(WHOLE, (len(self.table), 1))
        raise ValueError(
            f"the box set {self.manifest['box_set_id']} was refused: {'; '.join(self.reasons)}."
            f" Otherwise set pretrain.views.crop to random_resized, or crop_boxes.on_alarm to keep"
            f" (train with these boxes) or full (with whole images)"
        )

    def write(self, folder: Path) -> None:
        """Write all parts into an existing or new folder; the manifest, last, marks it complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        self.table.to_parquet(folder / "boxes.parquet", index=False)
        np.save(folder / "heatmaps.npy", self.heatmaps)
        np.savez(folder / "preview.npz", allow_pickle=False, **self.preview)
        text = json.dumps(self.manifest, indent=2, sort_keys=True) + "\n"
        (folder / "manifest.json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "BoxSet":
        """Read a folder that `write` made.

        Raises `ValueError` when parts lack, or are no longer those the set's id was made from.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            table = pd.read_parquet(folder / "boxes.parquet")[COLUMNS]
            heatmaps = np.load(folder / "heatmaps.npy", allow_pickle=False)
            with np.load(folder / "preview.npz", allow_pickle=False) as archive:
                preview = {name: archive[name] for name in archive.files}
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{folder} holds no whole box set ({error}); {_REBUILD}") from error
        counts = {manifest.get("n_images"), len(table), len(heatmaps)}
        if manifest.get("schema") != SCHEMA or len(counts) != 1:
            raise ValueError(
                f"{folder} has schema {manifest.get('schema')} (this version reads {SCHEMA}) and"
                f" {sorted(map(str, counts))} images in its parts; {_REBUILD}"
            )
        if content_id(manifest, table, heatmaps) != manifest.get("box_set_id"):
            raise ValueError(
                f"{folder} was changed after it was made: its content is no longer that of the box"
                f" set {manifest.get('box_set_id')}; {_REBUILD}"
            )
        return cls(table, heatmaps, manifest, preview)


def content_id(manifest: dict[str, Any], table: pd.DataFrame, heatmaps: np.ndarray) -> str:
    """16 hex digits over everything a box set holds but its own id."""
    plain = {key: value for key, value in manifest.items() if key != "box_set_id"}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode())
    # As text: parquet bytes differ between library versions.
    digest.update(table.to_csv(index=False).encode())
    digest.update(heatmaps.tobytes())
    return digest.hexdigest()[:16]
