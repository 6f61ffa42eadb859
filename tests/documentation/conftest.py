"""One small project in a temporary folder, in which all commands and code of the pages run."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from PIL import Image

from contramask.models.encoder import EncoderConfig, build_encoder

ROOT = Path(__file__).parents[2]
#: The chain at its smallest, but with the demo's encoder, whose sizes the pages name.
TINY: dict[str, Any] = {
    "experiment": "demo",
    "tracking": False,
    "dataset": {"scenes": {"num_train": 64, "num_val": 32}},
    "pretrain": {
        "encoder": {"embed_dim": None, "depth": None, "num_heads": None},
        **{"epochs": 1, "warmup_epochs": 0, "batch_size": 32},
    },
    "probe": {"attentive": None, "shots": [1], "label_shares": [], "weight_decays": [0.01]},
    "finetune": {"train_limit": 32, "batch_size": 16},
    "segmentation": {"train_limit": 8, "val_limit": 4, "linear": {"batch_size": 8}},
    "detection": {"train_limit": 8, "val_limit": 4, "tune": {"batch_size": 8}},
}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a project's after a first run, and everything the pages assume beside it."""
    here = tmp_path_factory.mktemp("documentation") / "project"
    bootstrap_project(ROOT)
    given = {**TINY, "data": str(here / "data")}
    with KedroSession.create(project_path=ROOT, env="smoke", runtime_params=given) as session:
        session.run()
    _images(here.parent / "my_images")
    _metrics(here)
    shape = EncoderConfig(patch_size=8, embed_dim=64, depth=1, num_heads=1)
    state = build_encoder(shape, (32, 32), 3).state_dict()
    torch.save({"model": state}, here / "mae_pretrain_vit_base.pth")
    return here


def _images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(path)


def _metrics(folder: Path) -> None:
    """The files `contramask evaluate` reads."""
    (folder / "predicted").mkdir()
    (folder / "truth").mkdir()
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8) % 11
    for name in ("predicted", "truth"):
        Image.fromarray(mask).save(folder / name / "0.png")
    shutil.make_archive(str(folder / "masks"), "zip", folder / "truth")
    square = np.zeros((8, 8), np.uint8, order="F")
    square[1:5, 1:5] = 1
    runs = coco_mask.encode(square)
    outline = {"size": [8, 8], "counts": runs["counts"].decode("ascii")}
    one = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "segmentation": outline}
    truth = {
        "images": [{"id": 1, "height": 8, "width": 8}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{**one, "id": 1, "area": 16, "iscrowd": 0}],
    }
    (folder / "instances.json").write_text(json.dumps(truth), encoding="utf-8")
    found = json.dumps([{**one, "score": 0.9}])
    (folder / "results.json").write_text(found, encoding="utf-8")
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    for name in ("train", "test"):
        np.savez(folder / f"{name}.npz", x=features, y=np.arange(40) % 2)


@pytest.fixture
def there(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project
