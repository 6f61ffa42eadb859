from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contramask.data.config import DatasetConfig
from contramask.data.readers import voc
from contramask.data.tree import FileTree

OBJECT = """<object><name>{}</name><difficult>{}</difficult>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"""


def _annotate(root: Path, name: str, *objects: tuple) -> None:
    body = "".join(OBJECT.format(*entry) for entry in objects)
    path = root / "Annotations" / f"{name}.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"<annotation><size/>{body}</annotation>")


@pytest.fixture
def root(draw) -> Path:
    """Four images in a folder VOC2012: boxes for two, a mask for one, lists of both kinds."""
    folder = draw(*(f"VOCdevkit/VOC2012/JPEGImages/{n}.jpg" for n in "abcd")) / "VOCdevkit"
    inner = folder / "VOC2012"
    _annotate(inner, "a", ("dog", 0, 1, 1, 10, 20), ("person", 1, 5, 5, 5, 5))
    _annotate(inner, "b", ("cat", 0, 3, 4, 9, 9))
    (inner / "Annotations" / "c.xml").write_text("<annotation>")
    mask = Image.fromarray(np.full((24, 32), 12, np.uint8))
    mask.putpalette([channel for colour in range(256) for channel in (colour, 0, 0)])
    mask.paste(255, (0, 0, 4, 24))
    (inner / "SegmentationClass").mkdir()
    mask.save(inner / "SegmentationClass" / "b.png")
    for part, lists in (("Main", "ab|c"), ("Segmentation", "|b")):
        (inner / "ImageSets" / part).mkdir(parents=True)
        for name, listed in zip(("train", "val"), lists.split("|"), strict=True):
            (inner / "ImageSets" / part / f"{name}.txt").write_text("\n".join(listed))
    return folder


def _read(root: Path, **values: object):
    return voc.read(DatasetConfig(source="voc", root=root, **values))


def test_boxes_masks_and_lists(root: Path) -> None:
    source = _read(root)
    found = {Path(r.id).stem: r for r in source.records}
    assert {name: r.split for name, r in found.items()} == {"a": "train", "b": "val", "c": "val"}
    dog, person = found["a"].instances
    assert (source.instance_classes[dog.category], dog.box) == ("dog", (0, 0, 10, 20))
    assert (person.box, person.iscrowd, dog.iscrowd) == ((4, 4, 5, 5), True, False)
    assert source.semantic_classes[12] == "dog"
    assert np.unique(found["b"].semantic).tolist() == [12, 255]
    assert found["a"].semantic is None
    assert source.facts["damaged_annotations"] == 1
    assert source.facts["outside_splits"] == 1


def test_own_classes_without_lists_or_masks(draw, build) -> None:
    root = draw(*(f"JPEGImages/{n}.jpg" for n in "abcdefgh"))
    _annotate(root, "a", ("screw", 0, 1, 1, 9, 9), ("bolt", 0, 2, 2, 30, 20))
    source = _read(root, val_fraction=0.3)
    assert (source.instance_classes, source.semantic_classes) == (["bolt", "screw"], [])
    assert set(source.splits) == {"train", "val"}
    built = build(source="voc", root=root, val_fraction=0)
    assert len(built.store["train"].instances) == 2
    assert not built.store.has_instance_masks


def test_other_layouts_are_explained(tmp_path: Path, root: Path, draw) -> None:
    with pytest.raises(ValueError, match="holds no such folder; give the folder that holds JPEG"):
        _read(root / "VOC2012" / "ImageSets")
    draw("VOCdevkit/VOC2007/JPEGImages/a.jpg")
    with pytest.raises(ValueError, match=r"several folders JPEGImages \(VOC2007/, VOC2012/\)"):
        _read(root)


def test_recognised(root: Path, tmp_path: Path) -> None:
    found = voc.recognise(FileTree(root))
    assert found.source == "voc"
    assert "4 images" in found.why
    assert voc.recognise(FileTree(root / "VOC2012" / "JPEGImages")) is None
