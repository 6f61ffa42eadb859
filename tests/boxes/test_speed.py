"""Speeds are of every map, beside the plain forward where there is an encoder."""

from pathlib import Path

import pytest

from contramask.boxes.speed import measure_speed
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle


def test_every_map_has_a_speed(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path: Path
) -> None:
    tiny_bundle.write(tmp_path)
    table = measure_speed(tiny_store, tmp_path, 8)
    assert table["map"].tolist() == [
        *("forward", "cls_attn", "rollout", "key_sim", "ncut", "pc1", "token_norm"),
        *("spectral_residual", "edge_energy"),
    ]
    assert (table["images_per_s"] > 0).all()
    assert table["of_forward"].iloc[0] == pytest.approx(1)


def test_without_an_encoder_there_is_no_forward(tiny_store: Store) -> None:
    table = measure_speed(tiny_store, None, 8)
    assert table["map"].tolist() == ["spectral_residual", "edge_energy"]
    assert table["of_forward"].isna().all()
