from pathlib import Path

import pytest

from contramask.data.config import DatasetConfig
from contramask.data.readers import READERS
from contramask.typed import ConfigError, parse, to_plain


def test_defaults_are_the_digit_demo() -> None:
    config = parse(DatasetConfig, {}, "dataset")
    assert (config.source, config.image_size, config.scenes.num_train) == (
        "digit_scenes",
        (32, 32),
        12_000,
    )


def test_plain_values_are_typed_and_go_back() -> None:
    values = {"source": "folder", "root": "some/where", "scenes": {"main_scale": [0.5, 0.6]}}
    config = parse(DatasetConfig, values, "dataset")
    assert config.root == Path("some/where")
    assert config.scenes.main_scale == (0.5, 0.6)
    assert parse(DatasetConfig, to_plain(config), "dataset") == config


def test_every_reader_can_be_chosen() -> None:
    for source in READERS:
        assert parse(DatasetConfig, {"source": source}, "dataset").source == source
    values = {"source": "coco", "annotations": "a.json", "images": "i", "classes_file": "c.txt"}
    assert parse(DatasetConfig, values, "dataset").annotations == Path("a.json")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"image_sise": 32}, "did you mean `image_size`"),
        ({"image_size": 2}, "dataset.image_size"),
        ({"source": "zip"}, "dataset.source"),
        ({"val_fraction": 1.0}, "dataset.val_fraction"),
        ({"scenes": {"main_scale": [0.9, 0.6]}}, r"0.9 is above 0.6"),
        ({"scenes": {"tint": 2}}, "dataset.scenes.tint"),
        (
            {"root": "somewhere"},
            r"dataset.root: .* digit_scenes reads no files; set dataset.source",
        ),
        (
            {"source": "folder", "masks": "m"},
            r"dataset.masks: .* folder has no use for masks, which belongs to coco, mask_pairs",
        ),
        ({"source": "voc", "labels": "folders"}, r"dataset.labels: .* belongs to folder"),
        ({"value_range": [9, 9]}, r"9.0 is not below 9.0"),
        ({"channels": 5, "normalize": "imagenet"}, r"ImageNet's mean and std are those of 3"),
    ],
)
def test_mistakes_are_refused_by_key(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse(DatasetConfig, values, "dataset")


def test_one_number_stands_for_a_square() -> None:
    assert parse(DatasetConfig, {"image_size": 64}, "dataset").image_size == (64, 64)
    assert parse(DatasetConfig, {"image_size": [48, 64]}, "dataset").image_size == (48, 64)
    with pytest.raises(ConfigError, match=r"dataset.image_size: given 4, .*from 8 to 2048"):
        parse(DatasetConfig, {"image_size": 4}, "dataset")
