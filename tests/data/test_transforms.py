"""The user's own transforms as configuration: every form albumentations' users have, no typo."""

from typing import Any

import albumentations
import cv2
import pytest

from contramask.data.transforms import TransformsConfig, leaves, make_transform
from contramask.data.views import ViewConfig
from contramask.typed import ConfigError, parse, to_plain

CROP = {"name": "RandomResizedCrop", "size": [32, 32], "interpolation": "INTER_AREA"}
FLIP = {"name": "HorizontalFlip"}


def config(value: Any) -> TransformsConfig:
    found = parse(ViewConfig, {"transforms": value}, "pretrain.views").transforms
    assert found is not None
    return found


def test_none_are_the_default() -> None:
    assert ViewConfig().transforms is None


def test_a_list_is_drawn_anew_for_each_view() -> None:
    found = config([CROP, FLIP])
    assert found == config({"view": [CROP, FLIP]})
    assert found.lists() == {
        "shared": (),
        "view": (CROP, FLIP),
        "target_view": (CROP, FLIP),
    }
    plain = to_plain(ViewConfig(transforms=found))
    assert parse(ViewConfig, plain, "views") == ViewConfig(transforms=found)


def test_the_second_view_can_have_a_list_of_its_own_or_none() -> None:
    assert config({"shared": [CROP], "target_view": [FLIP]}).lists()["target_view"] == (FLIP,)
    assert config({"view": [CROP], "target_view": []}).lists()["target_view"] == ()


def test_what_albumentations_writes_is_understood() -> None:
    blurs = albumentations.OneOf([albumentations.GaussianBlur(p=1), albumentations.Solarize(p=0.2)])
    mine = albumentations.Compose(
        [
            albumentations.RandomResizedCrop(size=(32, 32), scale=(0.3, 1.0)),
            albumentations.ColorJitter(hue=0.2, p=0.7),
            blurs,
            albumentations.CoarseDropout(),
        ],
        p=0.9,
    )
    written = albumentations.to_dict(mine)
    (step,) = config(written).view
    assert albumentations.to_dict(make_transform(step, "view")) == written
    assert config([written["transform"]]) == config(written)
    assert [type(t).__name__ for t in leaves(make_transform(step, "view"))] == [
        *("RandomResizedCrop", "ColorJitter", "GaussianBlur", "Solarize", "CoarseDropout")
    ]


def test_what_is_not_written_is_the_classs_default_and_opencv_may_be_named() -> None:
    made = make_transform(CROP, "view")
    assert made.p == 1.0  # `from_dict` would say one half
    assert made.interpolation == cv2.INTER_AREA
    assert make_transform(FLIP, "view").p == 0.5


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([{"name": "RandomResizedCrp"}], r"view\[0\]: .*no RandomResizedCrp .*RandomResizedCrop"),
        ([FLIP, {**CROP, "scal": [0.2, 1]}], r"view\[1\]: .* no scal \(did you mean scale\?\)"),
        ([{"name": "HorizontalFlip", "p": 1.5}], r"HorizontalFlip refuses .* p: Input should be"),
        ([{"name": "RandomResizedCrop"}], r"RandomResizedCrop refuses .* size: Field required"),
        ([{"name": "OneOf", "transforms": [{"name": "Blr"}]}], r"OneOf\.transforms\[0\]: .*no Blr"),
        ([{**CROP, "interpolation": "INTER_CUBI"}], r"no INTER_CUBI \(did you mean INTER_CUBIC\?"),
        ([{"p": 0.5}], r"give the transform's class as `name`"),
        ({"shard": [FLIP]}, r"pretrain\.views\.transforms\.shard: .* did you mean `shared`"),
        ([], "no transform is given"),
        ("flip", r"pretrain\.views\.transforms"),
        ([3], r"pretrain\.views\.transforms\.view\.0"),
    ],
)
def test_mistakes_are_told(value: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config(value)


@pytest.mark.parametrize("crop", ["boxes", "inside_boxes", "full_box"])
def test_boxes_cannot_place_what_the_user_crops(crop: str) -> None:
    with pytest.raises(ConfigError, match="leave one of the two out"):
        parse(ViewConfig, {"crop": crop, "transforms": [CROP]}, "pretrain.views")
