import json
from pathlib import Path

import numpy as np
import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import mask_pairs
from contramask.data.tree import FileTree

REAL = Path(__file__).parents[4] / "shared" / "data" / "camvid"
VALUES = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 3


def _read(root: Path, **values: object):
    return mask_pairs.read(DatasetConfig(source="mask_pairs", root=root, **values))


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ("images/{s}/{n}.jpg", "masks/{s}/{n}.png"),
        ("{s}/{n}.png", "{s}annot/{n}.png"),
        ("{s}/images/{n}.jpg", "{s}/labels/{n}.png"),
        ("{s}_images/{n}.jpg", "{s}_masks/{n}.png"),
        ("{s}/{n}.jpg", "{s}/{n}_mask.png"),
        ("set/images/{s}/deep/{n}.jpg", "set/masks/{s}/deep/{n}_L.png"),
    ],
)
def test_usual_layouts(draw, mask, image: str, found: str) -> None:
    places = [("train", "a"), ("train", "b_l"), ("val", "c")]
    root = draw(*(image.format(s=s, n=n) for s, n in places))
    for s, n in places:
        mask(root / found.format(s=s, n=n), VALUES)
    source = _read(root)
    assert sorted(source.splits) == ["train", "train", "val"]
    assert source.facts["images_without_mask"] == source.facts["masks_without_image"] == 0
    for record in source.records:
        np.testing.assert_array_equal(record.semantic, VALUES)
    assert mask_pairs.recognise(FileTree(root)).source == "mask_pairs"


def test_folders_of_other_names_pair_by_stem(draw, mask) -> None:
    root = draw("701_StillsRaw_full/a.png", "701_StillsRaw_full/b.png")
    mask(root / "LabeledApproved_full" / "a_L.png", VALUES)
    assert [r.semantic is None for r in _read(root, val_fraction=0).records] == [False, True]
    draw("left/x.jpg", "left/y.jpg", root=root / "other")
    mask(root / "other" / "right" / "x.png", VALUES)
    with pytest.raises(ValueError, match=r"no two have the same name.*dataset\.images"):
        _read(root / "other")
    source = _read(root / "other", images="left", masks="right", val_fraction=0)
    assert [r.semantic is None for r in source.records] == [False, True]


def test_classes_by_value_with_names(draw, mask) -> None:
    root = draw("images/a.jpg")
    mask(root / "masks" / "a.png", VALUES)
    (root / "classes.json").write_text(json.dumps({"0": "sky", "1": "void", "2": "road"}))
    source = _read(root, val_fraction=0)
    assert source.semantic_classes == ["sky", "road"]
    assert np.unique(source.records[0].semantic).tolist() == [0, 1, 255]
    assert source.facts["classes_from"] == "classes.json"


def test_classes_by_colour(draw, mask) -> None:
    root = draw("images/a.jpg", "images/b.jpg")
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[:12] = [128, 64, 0]
    pixels[0, 0] = [1, 2, 3]
    mask(root / "masks" / "a.png", pixels)
    mask(root / "masks" / "b.png", np.zeros((24, 32, 3), np.uint8))
    unnamed = _read(root, val_fraction=0)
    assert unnamed.semantic_classes == ["#000000", "#010203", "#804000"]
    (root / "class_dict.csv").write_text("name,r,g,b\nground,0,0,0\nroof,128,64,0\n")
    source = _read(root, val_fraction=0)
    assert source.semantic_classes == ["ground", "roof"]
    assert np.unique(source.records[0].semantic).tolist() == [0, 1, 255]
    assert "1 mask pixels with values of no class" in source.records[0].notes[0]


def test_black_and_white_masks_are_two_classes(draw, mask, build) -> None:
    root = draw("images/a.jpg", "images/b.jpg")
    for name in "ab":
        mask(root / "masks" / f"{name}.png", np.where(VALUES == 1, 255, 0).astype(np.uint8))
    built = build(source="mask_pairs", root=root, val_fraction=0)
    assert built.store.manifest["semantic_classes"] == ["background", "foreground"]
    assert set(np.unique(built.store["train"].semantic)) == {0, 1}


def test_bad_masks_cost_only_themselves(draw, mask, build) -> None:
    root = draw("images/a.jpg", "images/b.jpg", "images/c.jpg")
    mask(root / "masks" / "a.png", VALUES)
    (root / "masks" / "b.png").write_bytes(b"no mask")
    mask(root / "masks" / "c.png", np.zeros((32, 24), np.uint8))
    built = build(source="mask_pairs", root=root, val_fraction=0)
    text = dict(zip(built.problems["id"], built.problems["problem"], strict=True))
    assert "b.png that was left out" in text["images/b.jpg"]
    assert "do not fit its own 32 x 24" in text["images/c.jpg"]
    assert (built.store["train"].semantic[1:] == 255).all()
    assert built.card["unreadable"] == 0


def test_too_many_values_are_no_classes(draw, mask) -> None:
    root = draw("images/a.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    mask(root / "masks" / "a.png", noise)
    with pytest.raises(ValueError, match=r"more values than classes can be.*classes_file"):
        _read(root)


@pytest.mark.skipif(not REAL.is_dir(), reason="CamVid is not on this machine")
def test_real_camvid(build) -> None:
    built = build(source="mask_pairs", root=REAL, limit=8, val_limit=4, image_size=64)
    assert len(built.store.manifest["semantic_classes"]) == 11
    assert built.store["train"].semantic.max() == 255
    assert built.problems.empty
