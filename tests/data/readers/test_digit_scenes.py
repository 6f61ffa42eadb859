import numpy as np
import pytest

from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.readers import digit_scenes

SCENES = ScenesConfig(num_train=30, num_val=10)


def test_train_then_val_with_all_annotations() -> None:
    source = digit_scenes.read(DatasetConfig(scenes=SCENES))
    assert len(source.records) == len(source.splits) == 40
    assert [record.split for record in source.records] == list(source.splits)
    assert source.records[30].id == "val/000000"
    assert len(source.semantic_classes) == 11
    with pytest.raises(IndexError):
        source.records[40]


def test_limits_keep_the_first_scenes() -> None:
    whole = digit_scenes.read(DatasetConfig(scenes=SCENES))
    part = digit_scenes.read(DatasetConfig(scenes=SCENES, limit=20, val_limit=0))
    assert list(part.splits) == ["train"] * 20
    np.testing.assert_array_equal(part.records[19].image, whole.records[19].image)


def test_scene_side_follows_the_store_or_its_own_key() -> None:
    assert digit_scenes.read(DatasetConfig(image_size=64)).records[0].image.shape == (64, 64, 3)
    own = DatasetConfig(image_size=64, scenes=ScenesConfig(side=40))
    assert digit_scenes.read(own).records[0].image.shape == (40, 40, 3)
