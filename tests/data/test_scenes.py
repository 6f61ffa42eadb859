import numpy as np
import pytest

from contramask.data.config import ScenesConfig
from contramask.data.scenes import (
    PHOTOGRAPHS,
    DigitScenes,
    _packaged,
    digit_rows,
    handwritten_digits,
    photographs,
)

CONFIG = ScenesConfig(num_train=200, num_val=50)


@pytest.fixture(scope="module")
def train() -> DigitScenes:
    return DigitScenes(CONFIG, "train", seed=0, side=32)


def test_digits_and_photographs_come_from_installed_files() -> None:
    ink, classes = handwritten_digits()
    assert ink.shape == (5000, 28, 28)
    assert ink.max() == 255
    assert np.bincount(classes).tolist() == [500] * 10
    assert len(photographs()) == len(PHOTOGRAPHS)
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in photographs())


def test_missing_packaged_file_is_explained() -> None:
    with pytest.raises(ValueError, match=r"data/no_such.png .*'skimage'"):
        _packaged("skimage", "data/no_such.png")


def test_train_and_val_digits_are_disjoint_and_complete() -> None:
    train_rows = np.concatenate(digit_rows("train", 0.2))
    val_rows = np.concatenate(digit_rows("val", 0.2))
    assert len(val_rows) == 1000
    assert sorted([*train_rows, *val_rows]) == list(range(5000))
    own = [set(handwritten_digits()[1][rows]) for rows in digit_rows("val", 0.2)]
    assert own == [{digit} for digit in range(10)]


def test_scene_depends_on_seed_split_and_number_only(train: DigitScenes) -> None:
    more = DigitScenes(ScenesConfig(num_train=500), "train", seed=0, side=32)
    np.testing.assert_array_equal(train[7].image, more[7].image)
    np.testing.assert_array_equal(train[7].semantic, more[7].semantic)
    others = [
        DigitScenes(CONFIG, "train", seed=1, side=32)[7],
        DigitScenes(CONFIG, "val", seed=0, side=32)[7],
        train[17],
    ]
    assert all(np.any(other.image != train[7].image) for other in others)


def test_masks_agree_with_boxes_labels_and_semantic_mask(train: DigitScenes) -> None:
    for record in train:
        covered = np.zeros((32, 32), dtype=bool)
        main = record.instances[0]
        assert main.category == record.label
        for instance in record.instances:
            assert instance.mask is not None
            assert instance.mask.dtype == bool
            rows, cols = np.nonzero(instance.mask)
            tight = (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
            assert instance.box == tight
            assert set(record.semantic[instance.mask]) == {instance.category + 1}
            assert not (covered & instance.mask).any()
            covered |= instance.mask
        np.testing.assert_array_equal(covered, record.semantic > 0)


def test_labels_take_turns_so_any_prefix_is_balanced(train: DigitScenes) -> None:
    assert [record.label for record in train[:20]] == list(range(10)) * 2


def test_main_digit_has_the_asked_size_and_wanders(train: DigitScenes) -> None:
    boxes = np.array([record.instances[0].box for record in train])
    longer = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    assert longer.min() >= 0.60 * 32 - 3  # a thin outermost stroke may stay below half ink
    assert longer.max() <= round(0.95 * 32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (centres.std(axis=0) > 1).all()


def test_digits_stand_out_from_a_dim_background(train: DigitScenes) -> None:
    ink = np.mean([record.image[record.semantic > 0].mean() for record in train])
    ground = np.mean([record.image[record.semantic == 0].mean() for record in train])
    assert ink > 1.75 * ground
    assert ground < 100


def test_second_digits_follow_their_probability() -> None:
    def share(probability: float) -> float:
        config = ScenesConfig(num_train=60, second_probability=probability)
        scenes = DigitScenes(config, "train", seed=0, side=32)
        return float(np.mean([len(record.instances) == 2 for record in scenes]))

    assert share(0.0) == 0
    assert 0.1 < share(0.35) < 0.6
    assert share(1.0) > 0.7


def test_extreme_settings_still_draw() -> None:
    tiny = ScenesConfig(num_train=20, main_scale=(0.05, 0.1), second_scale=(0.05, 1.0))
    scenes = DigitScenes(tiny, "train", seed=3, side=16)
    assert all(record.image.shape == (16, 16, 3) for record in scenes)
    large = ScenesConfig(num_train=2, background_zoom=(16, 16))
    assert DigitScenes(large, "train", seed=0, side=256)[1].image.shape == (256, 256, 3)


def test_number_out_of_range_is_an_index_error(train: DigitScenes) -> None:
    assert len(train) == 200
    with pytest.raises(IndexError):
        train[200]
