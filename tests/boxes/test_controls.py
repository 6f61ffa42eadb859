"""Box sets that exist to be compared with: other images' boxes, and a trained encoder's."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from contramask.boxes import quality
from contramask.boxes.generate import BoxConfig, generate_boxes
from contramask.boxes.quality import shuffled
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle


@pytest.fixture(autouse=True)
def few_crop_pairs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "_PAIRS", 8)
        yield


def test_shuffled_boxes_are_the_same_boxes_of_other_images(tiny_store: Store) -> None:
    own = generate_boxes(tiny_store, BoxConfig())
    dealt = generate_boxes(tiny_store, BoxConfig(deal="shuffled"))
    assert np.array_equal(dealt.boxes, shuffled(own.boxes))
    assert np.array_equal(dealt.heatmaps, shuffled(own.heatmaps))
    assert dealt.table["image_id"].tolist() == tiny_store["train"].ids
    assert dealt.manifest["stats"]["area_mean"] == own.manifest["stats"]["area_mean"]
    assert dealt.manifest["box_set_id"] != own.manifest["box_set_id"]
    found = [each.manifest["quality"]["boxes"]["found"]["iou"] for each in (own, dealt)]
    assert found[0] > found[1] + 0.1


def test_a_trained_encoder_finds_boxes(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path
) -> None:
    tiny_bundle.write(tmp_path / "mine-s0")
    config = BoxConfig(method="pc1", encoder=tmp_path / "mine-s0", on_alarm="keep")
    found = generate_boxes(tiny_store, config)
    assert found.manifest["producer"]["kind"] == "encoder"
    assert found.manifest["encoder"] == "mine-s0"
    assert set(found.table["method"]) == {"pc1"}
    assert found.heatmaps.shape == (len(tiny_store["train"]), 16, 16)


def test_an_encoder_has_to_be_named(tiny_store: Store, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set crop_boxes\.encoder to its folder"):
        generate_boxes(tiny_store, BoxConfig(method="pc1"))
    with pytest.raises(ValueError, match="holds no encoder"):
        generate_boxes(tiny_store, BoxConfig(method="pc1", encoder=tmp_path))
