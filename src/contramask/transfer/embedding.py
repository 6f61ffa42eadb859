"""Features of any images as a table: what other tools search, cluster and plot."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from contramask.data.image_files import ImageFiles
from contramask.models.bundle import EncoderBundle, write_beside
from contramask.train.device import Machine
from contramask.transfer.features import READOUTS, extract_features

_FRAMING = (
    "short side resized to the encoder's side (averaged when shrinking, bicubic when enlarging), "
    "centre crop, RGB, then (x / 255 - mean) / std"
)


@dataclass(frozen=True)
class Embeddings:
    """The table: path, then one fixed-size list of float32 a readout. The manifest names what was
    left out.
    """

    table: pa.Table
    manifest: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write the table as Parquet, with its manifest inside and beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        inside = {b"contramask": json.dumps(self.manifest).encode()}
        partial = path.with_suffix(".partial")
        pq.write_table(self.table.replace_schema_metadata(inside), partial)
        partial.replace(path)
        write_beside(path, self.manifest)


def embed_images(
    bundle: EncoderBundle, files: ImageFiles, machine: Machine, batch_size: int
) -> Embeddings:
    """Embed every readable image; raises `ValueError` when none, or too few, can be read."""
    features = extract_features(bundle, files, machine, batch_size)
    kept = np.array([row not in files.problems for row in range(len(files))])
    skipped = [
        {"path": str(files.paths[row]), "problem": text}
        for row, text in sorted(files.problems.items())
    ]
    if not kept.any():
        raise ValueError(
            f"none of {len(files)} images can be read (relative paths are looked for from "
            f"{Path.cwd()}):\n{files.listed_problems()}"
        )
    paths = [str(path) for path, good in zip(files.paths, kept, strict=True) if good]
    columns = {"path": pa.array(paths, pa.string())}
    columns |= {name: _fixed_lists(features[name][kept]) for name in READOUTS}
    manifest = {
        "schema": 1,
        "encoder": bundle.manifest,
        "readouts": {
            "cls": "the class token after the final norm",
            "mean": "the mean patch token after the final norm",
        },
        "preprocessing": _FRAMING,
        "precision": machine.precision,
        "images": len(paths),
        "skipped": skipped,
    }
    return Embeddings(pa.table(columns), manifest)


def _fixed_lists(values: Tensor) -> pa.Array:
    flat = pa.array(values.contiguous().numpy().reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
