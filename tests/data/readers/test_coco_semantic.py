import json
from pathlib import Path

import numpy as np
import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import coco

NAMES = {"0": "unlabeled", "1": "person", "90": "sky", "200": "rug"}


@pytest.fixture
def root(draw) -> Path:
    folder = draw("images/train/a.jpg", "images/train/b.jpg")
    images = [
        {"id": i, "file_name": f"{n}.jpg", "height": 24, "width": 32} for i, n in enumerate("ab")
    ]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    (folder / "instances_train.json").write_text(json.dumps(content))
    return folder


def _read(root: Path, **values: object):
    return coco.read(DatasetConfig(source="coco", root=root, val_fraction=0, **values))


def test_category_ids_as_pixels(root: Path, mask) -> None:
    values = np.zeros((24, 32), np.uint8)
    values[:10], values[10:12], values[12] = 90, 200, 17
    mask(root / "semantic" / "train" / "a.png", values)
    (root / "semantic_classes.json").write_text(json.dumps(NAMES))
    source = _read(root, masks="semantic")
    assert source.semantic_classes == ["person", "sky", "rug"]
    found = source.records[0]
    assert np.unique(found.semantic).tolist() == [1, 2, 255]
    assert (found.semantic[:10] == 1).all()
    assert found.notes == ("has 32 mask pixels with values of no class, which are ignored",)
    assert source.records[1].semantic is None
    assert _read(root).semantic_classes == []


def test_panoptic_colours(root: Path, mask) -> None:
    segment = 7 + 256 * 2 + 65_536 * 1
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:5] = [7, 2, 1]
    mask(root / "panoptic_train" / "a.png", pixels)
    (root / "panoptic_train" / "b.png").write_bytes(b"no mask")
    content = {
        "categories": [{"id": 1, "name": "person"}, {"id": 184, "name": "tree"}],
        "annotations": [
            {"file_name": "a.png", "segments_info": [{"id": segment, "category_id": 184}]}
        ],
    }
    (root / "panoptic_train.json").write_text(json.dumps(content))
    source = _read(root, masks="panoptic_train")
    assert source.semantic_classes == ["person", "tree"]
    assert (source.records[0].semantic[:5] == 1).all()
    assert (source.records[0].semantic[5:] == 255).all()
    assert source.records[1].semantic is None
    assert "b.png that was left out" in source.records[1].notes[0]
    (root / "panoptic_train.json").write_text('{"categories": [1]}')
    with pytest.raises(ValueError, match="not in COCO's panoptic format"):
        _read(root, masks="panoptic_train")


def test_masks_need_names(root: Path, mask) -> None:
    mask(root / "semantic" / "a.png", np.zeros((24, 32), np.uint8))
    with pytest.raises(ValueError, match=r"dataset\.classes_file"):
        _read(root, masks="semantic")
    with pytest.raises(ValueError, match=r"dataset\.masks gone is not under .* images"):
        _read(root, masks="gone")
