import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from contramask.data.config import DatasetConfig
from contramask.data.readers import coco
from contramask.data.tree import FileTree

REAL = Path(__file__).parents[4] / "shared" / "data"
CATEGORIES = [{"id": 90, "name": "cup"}, {"id": 3, "name": "dog"}]


def _entry(image: int, category: int, box: list[float], **more: object) -> dict[str, object]:
    return {"image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}


def _write(root: Path, name: str, images: list[str], annotations: list[dict]) -> None:
    listed = [{"id": i, "file_name": n, "height": 24, "width": 32} for i, n in enumerate(images)]
    content = {"images": listed, "annotations": annotations, "categories": CATEGORIES}
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _rle(mask: np.ndarray) -> dict[str, object]:
    coded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": coded["counts"].decode()}


@pytest.fixture
def root(draw) -> Path:
    """Two train images and one val image as COCO lays them out: polygon, RLE, crowd, no object."""
    folder = draw("train2017/a.jpg", "train2017/b.jpg", "val2017/c.jpg")
    blob = np.zeros((24, 32), bool)
    blob[4:10, 20:28] = True
    crowd = {"size": [24, 32], "counts": [0, 240, 528]}  # the ten leftmost columns
    annotations = [
        _entry(0, 90, [2, 3, 8, 6], segmentation=[[2, 3, 10, 3, 10, 9, 2, 9]]),
        _entry(0, 3, [20, 4, 8, 6], segmentation=_rle(blob)),
        _entry(0, 3, [0, 0, 10, 24], iscrowd=1, segmentation=crowd),
    ]
    _write(folder, "annotations/instances_train2017.json", ["a.jpg", "b.jpg"], annotations)
    _write(folder, "annotations/instances_val2017.json", ["c.jpg", "gone.jpg"], [])
    _write(folder, "annotations/captions_val2017.json", [], [])
    return folder


def _read(root: Path, **values: object):
    return coco.read(DatasetConfig(source="coco", root=root, **values))


def test_categories_without_gaps_and_every_kind_of_mask(root: Path) -> None:
    source = _read(root)
    assert source.instance_classes == ["dog", "cup"]
    assert list(source.splits) == ["train", "train", "val"]
    polygon, blob, crowd = source.records[0].instances
    assert (polygon.category, polygon.box, polygon.mask.sum()) == (1, (2, 3, 10, 9), 48)
    assert blob.mask[4:10, 20:28].all()
    assert blob.mask.sum() == 48
    assert (crowd.iscrowd, crowd.mask.sum(), crowd.mask[:, :10].all()) == (True, 240, True)
    assert source.records[1].instances == ()
    assert source.facts["images_missing"] == 1
    assert (source.facts["objects"], source.facts["crowds"]) == (3, 1)
    assert source.facts["instance_masks"] is True


def test_store_holds_the_objects(root: Path, build) -> None:
    store = build(source="coco", root=root, image_size=24).store
    assert store.has_instance_masks
    assert store["train"].instances["iscrowd"].tolist() == [False, False, True]
    # 24 x 32 is cropped to its middle 24 columns: 4 px less on the left.
    assert store["train"].instances.iloc[1][["x0", "y0", "x1", "y1"]].tolist() == [16, 4, 24, 10]
    assert len(store["val"].instances) == 0


def test_boxes_alone_are_enough(draw) -> None:
    folder = draw("a.jpg")
    _write(folder, "labels.json", ["a.jpg"], [_entry(0, 3, [1, 2, 3, 4], segmentation=[])])
    source = _read(folder, val_fraction=0)
    assert source.records[0].instances[0].box == (1, 2, 4, 6)
    assert source.facts["instance_masks"] is False
    assert source.facts["split"].startswith("by name")


def test_damaged_annotations_cost_only_themselves(draw, build) -> None:
    folder = draw("a.jpg")
    good = _entry(0, 3, [1, 2, 3, 4], segmentation=[[1, 2, 4, 2, 4, 6]])
    bad = [
        _entry(0, 3, [1, 2, 0, 4], segmentation=[[1, 2, 4, 2, 4, 6]]),
        _entry(0, 77, [1, 2, 3, 4], segmentation=[[1, 2, 4, 2, 4, 6]]),
        _entry(0, 3, None, segmentation=[[1, 2, 4, 2, 4, 6]]),
        _entry(0, 3, [1, 2, 9, 9], segmentation={"size": [24, 32], "counts": "~~~~"}),
        _entry(0, 3, [1, 2, 9, 9], segmentation={"size": [2, 2], "counts": "04"}),
        _entry(0, 3, [1, 2, 9, 9], segmentation=[["x"]]),
        _entry(0, 3, [1, 2, 9, 9], segmentation=[[1e300, 0, 3, 3, 9, 1e9]]),
    ]
    _write(folder, "instances.json", ["a.jpg"], [good, *bad])
    built = build(source="coco", root=folder, val_fraction=0)
    text = built.problems["problem"].tolist()[0]
    assert "3 objects without a usable box" in text
    assert "3 objects with a damaged mask" in text
    assert len(built.store["train"].instances) >= 4


def test_annotations_of_another_size_are_scaled_or_refused(draw, build) -> None:
    folder = draw("half.jpg", size=(12, 16))
    draw("turned.jpg", size=(32, 24))
    box = _entry(0, 3, [0, 0, 16, 24])
    _write(folder, "instances.json", ["half.jpg", "turned.jpg"], [box, {**box, "image_id": 1}])
    built = build(source="coco", root=folder, val_fraction=0, image_size=12)
    assert built.store["train"].instances[["x0", "x1", "y1"]].values.tolist() == [[0, 6, 12]]
    assert built.problems["id"].tolist() == ["turned.jpg"]
    assert "do not fit its own 24 x 32" in built.problems["problem"][0]


def test_images_in_a_zip_file(root: Path) -> None:
    with ZipFile(root / "images.zip", "w") as archive:
        for name in ("train2017/a.jpg", "train2017/b.jpg", "val2017/c.jpg"):
            archive.write(root / name, name)
            (root / name).unlink()
    source = _read(root)
    assert source.records[0].image()[:3] == b"\xff\xd8\xff"
    assert source.records[0].id == "images/train2017/a.jpg"


def test_misfits_are_explained(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no json file with images, annotations and categories"):
        _read(root / "train2017")
    with pytest.raises(ValueError, match=r"dataset\.annotations gone\.json is not under"):
        _read(root, annotations=Path("gone.json"))
    with pytest.raises(ValueError, match=r"none of the 2 images .* dataset\.images"):
        _read(root, annotations=Path("annotations/instances_val2017.json"), images="train2017")
    (root / "instances_bad.json").write_text(
        '{"images": [{}], "annotations": [], "categories": []}'
    )
    with pytest.raises(ValueError, match=r"instances_bad\.json is not in COCO's format"):
        _read(root, annotations=Path("instances_bad.json"))
    (root / "instances_bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"instances_bad\.json is not in COCO's format"):
        _read(root, annotations=Path("instances_bad.json"))


def test_recognised(root: Path) -> None:
    found = coco.recognise(FileTree(root))
    assert (found.source, found.keys) == ("coco", {})
    assert coco.recognise(FileTree(root / "train2017")) is None


@pytest.mark.skipif(not (REAL / "coco-mini").is_dir(), reason="COCO's images are not here")
def test_real_coco(build) -> None:
    built = build(
        **{"source": "coco", "root": REAL / "coco-mini", "masks": "semantic_masks"},
        **{"limit": 20, "val_limit": 10, "image_size": 32},
    )
    assert built.store.has_semantic
    assert built.store.has_instance_masks
    assert len(built.store.manifest["instance_classes"]) == 80
    assert built.store.manifest["semantic_classes"][0] == "person"
    assert (built.store["train"].semantic != 255).any()
    assert built.problems.empty


@pytest.mark.skipif(not (REAL / "nuclei-dsb2018").is_dir(), reason="the nuclei are not here")
def test_real_nuclei(build) -> None:
    built = build(source="coco", root=REAL / "nuclei-dsb2018", limit=4, val_limit=2, image_size=64)
    assert built.store.manifest["instance_classes"] == ["nucleus"]
    assert len(built.store["train"].instances) > 20
    assert built.problems.empty
