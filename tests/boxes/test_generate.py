"""The box stage on digit scenes and on images in which there is nothing to find."""

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contramask.boxes import quality
from contramask.boxes.box_set import COLUMNS
from contramask.boxes.generate import RULES, BoxConfig, BoxSet, generate_boxes
from contramask.boxes.quality import CropConfig
from contramask.boxes.rules import CORNERS, RuleConfig, find_boxes
from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.store import Store
from contramask.data.views import ViewConfig
from contramask.typed import ConfigError, parse

COUNT = 300


@pytest.fixture(scope="module", autouse=True)
def few_crop_pairs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "_PAIRS", 8)
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("boxes")
    config = DatasetConfig(scenes=ScenesConfig(num_train=COUNT, num_val=20), workers=1)
    build_dataset(config, folder / "work").store.write(folder / "store")
    return Store.read(folder / "store")


@pytest.fixture(scope="module")
def boxes(store: Store) -> BoxSet:
    return generate_boxes(store, BoxConfig())


def store_of(images: np.ndarray, like: Store, folder: Path) -> Store:
    """A store with other pixels, (N, H, W, C) as in `like`, and without annotations."""
    shutil.copytree(like.folder, folder)
    np.save(folder / "train" / "images.npy", images)
    manifest = {**like.manifest, "instance_classes": [], "semantic_classes": []}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Store.read(folder)


def test_one_row_an_image_in_the_stores_order(boxes: BoxSet, store: Store) -> None:
    assert list(boxes.table.columns) == COLUMNS
    assert boxes.table["image_id"].tolist() == store["train"].ids
    assert set(boxes.table["split"]) == {"train"}
    assert set(boxes.table["method"]) == {"edge_energy"}
    assert boxes.heatmaps.shape == (COUNT, 16, 16)
    assert boxes.heatmaps.dtype == np.uint8
    corners = boxes.boxes
    assert corners.dtype == np.float32
    assert corners.min() >= 0
    assert corners.max() <= 1
    assert (corners[:, :2] < corners[:, 2:]).all()
    assert not boxes.table.isna().any().any()


def test_the_default_finds_digits(boxes: BoxSet) -> None:
    found = boxes.manifest["quality"]["boxes"]
    assert boxes.accepted
    assert boxes.reasons == []
    assert found["found"]["corloc"] > 0.85
    assert found["found"]["coverage"] > 0.9
    for name in ("shuffled", "full", "center_half", "mean_box"):
        assert found["found"]["iou"] > found[name]["iou"] + 0.1
    crops = boxes.manifest["quality"]["crops"]["off_centre"]
    assert crops["found"]["pair_miss"] < 0.75 * crops["plain"]["pair_miss"]


def test_boxes_can_be_found_again_from_the_stored_maps(boxes: BoxSet) -> None:
    maps = boxes.heatmaps.astype(np.float32) / 255
    again = find_boxes(maps, RULES["edge_energy"])
    assert np.array_equal(again[CORNERS].to_numpy(), boxes.boxes)
    assert boxes.manifest["rule"]["threshold"] == RULES["edge_energy"].threshold


def test_equal_inputs_give_equal_bytes_and_everything_is_read_back(
    boxes: BoxSet, store: Store, tmp_path: Path
) -> None:
    boxes.write(tmp_path / "one")
    generate_boxes(store, BoxConfig()).write(tmp_path / "two")
    names = ["boxes.parquet", "heatmaps.npy", "manifest.json", "preview.npz"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        one, two = (tmp_path / folder / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    read = BoxSet.read(tmp_path / "one")
    assert read.table.equals(boxes.table)
    assert np.array_equal(read.heatmaps, boxes.heatmaps)
    assert read.manifest == boxes.manifest
    assert all(np.array_equal(read.preview[k], v, equal_nan=True) for k, v in boxes.preview.items())


@pytest.mark.parametrize("part", ["manifest", "table", "heatmaps"])
def test_a_set_that_was_changed_is_not_read(boxes: BoxSet, tmp_path: Path, part: str) -> None:
    boxes.write(tmp_path)
    if part == "manifest":
        path = tmp_path / "manifest.json"
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace('"accepted": true', '"accepted": false'), encoding="utf-8")
    elif part == "table":
        boxes.table.assign(x0=np.float32(0)).to_parquet(tmp_path / "boxes.parquet", index=False)
    else:
        np.save(tmp_path / "heatmaps.npy", boxes.heatmaps[::-1])
    with pytest.raises(ValueError, match="was changed after it was made"):
        BoxSet.read(tmp_path)


def test_the_id_follows_the_content(boxes: BoxSet, store: Store) -> None:
    other = generate_boxes(store, BoxConfig(rule=RuleConfig(threshold=0.6)))
    assert other.manifest["box_set_id"] != boxes.manifest["box_set_id"]
    assert other.manifest["stats"]["area_mean"] < boxes.manifest["stats"]["area_mean"]


def test_preview(boxes: BoxSet, store: Store) -> None:
    rows = boxes.preview["rows"]
    assert len(rows) == 12
    assert np.array_equal(boxes.preview["images"], store["train"].images[rows])
    assert np.array_equal(boxes.preview["boxes"], boxes.boxes[rows])
    assert np.array_equal(boxes.preview["heatmaps"], boxes.heatmaps[rows])
    pairs = boxes.preview["pairs"]
    assert pairs.shape == (len(rows), 2, 4)
    assert (pairs[..., 2:] > pairs[..., :2]).all()
    assert pairs.min() >= 0
    assert pairs.max() <= 1
    assert not np.allclose(pairs[:, 0], pairs[:, 1])  # two draws, not one
    truth = boxes.preview["truth"]
    assert truth.shape == (12, 4)
    assert np.isfinite(truth).any()


def test_images_without_content_are_refused_loudly(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = np.array(store["train"].images)
    images[: int(COUNT * 0.6)] = 77
    blank = store_of(images, store, tmp_path / "blank")
    with caplog.at_level(logging.WARNING, logger="contramask.boxes.generate"):
        found = generate_boxes(blank, BoxConfig())
    assert not found.accepted
    assert found.manifest["quality"] is None
    assert "constant_map" in found.reasons[0]
    assert any("REFUSED" in record.message for record in caplog.records)
    first = found.table.iloc[0]
    assert (first["fallback_reason"], first["binds"], first["score"]) == ("constant_map", 0, 0)


def test_what_training_gets_from_a_refused_set(store: Store, tmp_path: Path) -> None:
    images = np.array(store["train"].images)
    images[: int(COUNT * 0.6)] = 77
    blank = store_of(images, store, tmp_path / "blank")
    whole = generate_boxes(blank, BoxConfig(on_alarm="full")).training_boxes()
    assert (whole == [0, 0, 1, 1]).all()
    kept = generate_boxes(blank, BoxConfig(on_alarm="keep"))
    assert np.array_equal(kept.training_boxes(), kept.boxes)
    with pytest.raises(ValueError, match="was refused"):
        generate_boxes(blank, BoxConfig()).training_boxes()


@pytest.mark.parametrize("method", ["full", "center_half"])
def test_methods_without_content_are_accepted_and_say_so(
    store: Store, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="contramask.boxes.generate"):
        found = generate_boxes(store, parse(BoxConfig, {"method": method}, "crop_boxes"))
    assert found.accepted
    assert f"method {method} was chosen" in found.reasons[0]
    assert any(method in record.message for record in caplog.records)
    assert (found.table["score"] == 0).all()
    assert (found.boxes == ([0, 0, 1, 1] if method == "full" else [0.25, 0.25, 0.75, 0.75])).all()
    assert (found.table["binds"] == 0).all() == (method == "full")


def test_ground_truth_boxes_are_the_upper_bound(store: Store) -> None:
    found = generate_boxes(store, BoxConfig(method="gt"))
    assert found.accepted
    assert found.manifest["quality"]["boxes"]["found"]["iou"] > 0.999
    assert found.manifest["producer"]["kind"] == "ground_truth"
    annotated = found.table[~found.table["is_fallback"]]
    assert (annotated["score"] == 1).all()


def test_ground_truth_needs_ground_truth(store: Store, tmp_path: Path) -> None:
    bare = store_of(np.array(store["train"].images), store, tmp_path / "bare")
    with pytest.raises(ValueError, match="no boxes of their own"):
        generate_boxes(bare, BoxConfig(method="gt"))


def test_spectral_residual_runs_with_its_own_rule(store: Store) -> None:
    found = generate_boxes(store, BoxConfig(method="spectral_residual", grid=14))
    assert found.accepted
    assert found.heatmaps.shape == (COUNT, 14, 14)
    assert found.manifest["rule"]["threshold"] == RULES["spectral_residual"].threshold
    measured = found.manifest["quality"]["boxes"]
    assert measured["found"]["corloc"] > measured["shuffled"]["corloc"] + 0.05


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"method": "edge_enrgy"}, "edge_energy"),
        ({"rule": {"treshold": 0.5}}, "did you mean `threshold`"),
        ({"rule": {"threshold": 1.0}}, "less than 1"),
        ({"crop": {"scale": [1.0, 0.2]}}, "low, high"),
        ({"crop": {"ratio": [0.0, 1.0]}}, "above 0"),
        ({"gates": {"max_fallback": 50}}, "less than or equal to 1"),
        ({"on_alarm": "ignore"}, "'stop', 'keep' or 'full'"),
        ({"grid": 2}, "greater than or equal to 4"),
    ],
)
def test_mistakes_in_the_configuration_are_named(values: dict, text: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match="crop_boxes") as caught:
        parse(BoxConfig, values, "crop_boxes")
    assert text in str(caught.value)


def test_damaged_sets_are_not_read(boxes: BoxSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run the crop_boxes stage again"):
        BoxSet.read(tmp_path)
    boxes.write(tmp_path)
    np.save(tmp_path / "heatmaps.npy", boxes.heatmaps[:-1])
    with pytest.raises(ValueError, match="images in its parts"):
        BoxSet.read(tmp_path)


def test_boxes_are_judged_by_the_crops_of_the_training() -> None:
    views = ViewConfig(crop="boxes", crop_scale=(0.6, 1.0), crop_ratio=(0.5, 2.0), box_alpha=1.0)
    own = BoxConfig(crop=CropConfig(scale=(0.1, 0.2)))
    assert BoxConfig().for_views(views).crops == CropConfig((0.6, 1.0), (0.5, 2.0), 1.0)
    assert own.for_views(views) is own
    assert BoxConfig().crops == CropConfig()
