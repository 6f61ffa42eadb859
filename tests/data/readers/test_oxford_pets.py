from pathlib import Path

import numpy as np
import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import oxford_pets
from contramask.data.tree import FileTree

NAMES = ["Abyssinian_1", "great_pyrenees_2", "great_pyrenees_10", "Bombay_3"]


@pytest.fixture
def root(draw, mask) -> Path:
    folder = draw(*(f"images/{name}.jpg" for name in NAMES))
    trimap = np.full((24, 32), 2, np.uint8)
    trimap[5:15, 6:20] = 3
    trimap[6:14, 7:19] = 1
    for name in NAMES[:3]:
        mask(folder / "annotations" / "trimaps" / f"{name}.png", trimap)
    (folder / "annotations" / "trimaps" / "great_pyrenees_2.png").write_bytes(b"no trimap")
    lines = ["#Image CLASS-ID SPECIES BREED ID", *(f"{name} 1 1 1" for name in NAMES[:2])]
    (folder / "annotations" / "trainval.txt").write_text("\n".join(lines))
    (folder / "annotations" / "test.txt").write_text("\n".join(f"{n} 1 1 1" for n in NAMES[2:]))
    return folder


def test_breed_mask_and_object(root: Path) -> None:
    source = oxford_pets.read(DatasetConfig(source="oxford_pets", root=root))
    assert source.classes == ["Abyssinian", "Bombay", "great pyrenees"]
    found = {Path(r.id).stem: r for r in source.records}
    assert [found[name].split for name in NAMES] == ["train", "train", "val", "val"]
    assert [found[name].label for name in NAMES] == [0, 2, 2, 1]
    assert np.unique(found["Abyssinian_1"].semantic).tolist() == [0, 1, 255]
    (cat,), (dog,) = found["Abyssinian_1"].instances, found["great_pyrenees_10"].instances
    assert (cat.category, cat.box, cat.mask.sum()) == (0, (6, 5, 20, 15), 140)
    assert dog.category == 1
    assert "trimap that was left out" in found["great_pyrenees_2"].notes[0]
    assert found["Bombay_3"].instances == ()


def test_store_has_everything(root: Path, build) -> None:
    store = build(source="oxford_pets", root=root, image_size=24).store
    assert store.has_labels
    assert store.has_semantic
    assert store.has_instance_masks


def test_recognised_or_explained(root: Path) -> None:
    assert oxford_pets.recognise(FileTree(root)).source == "oxford_pets"
    assert oxford_pets.recognise(FileTree(root / "images")) is None
    with pytest.raises(ValueError, match="not laid out like Oxford Pets; give the folder"):
        oxford_pets.read(DatasetConfig(source="oxford_pets", root=root / "images"))
