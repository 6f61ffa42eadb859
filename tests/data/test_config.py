from pathlib import Path

import pytest

from contramask.data.config import DatasetConfig
from contramask.typed import ConfigError, parse, to_plain


def test_defaults_are_the_digit_demo() -> None:
    config = parse(DatasetConfig, {}, "dataset")
    assert (config.source, config.image_size, config.scenes.num_train) == (
        "digit_scenes",
        32,
        12_000,
    )


def test_plain_values_are_typed_and_go_back() -> None:
    values = {"source": "folder", "root": "some/where", "scenes": {"main_scale": [0.5, 0.6]}}
    config = parse(DatasetConfig, values, "dataset")
    assert config.root == Path("some/where")
    assert config.scenes.main_scale == (0.5, 0.6)
    assert parse(DatasetConfig, to_plain(config), "dataset") == config


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"image_sise": 32}, "did you mean `image_size`"),
        ({"image_size": 2}, "dataset.image_size"),
        ({"source": "zip"}, "dataset.source"),
        ({"val_fraction": 1.0}, "dataset.val_fraction"),
        ({"scenes": {"main_scale": [0.9, 0.6]}}, r"0.9 is above 0.6"),
        ({"scenes": {"tint": 2}}, "dataset.scenes.tint"),
    ],
)
def test_mistakes_are_refused_by_key(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse(DatasetConfig, values, "dataset")
