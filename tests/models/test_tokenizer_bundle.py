"""The tokenizer on disk, and who may train with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from contramask.models.codebook import CodebookConfig
from contramask.models.tokenizer import TokenizerNetConfig, VQTokenizer
from contramask.models.tokenizer_bundle import TokenizerBundle, content_id, describe

FITS = {"data_hash": "abc", "patch_size": 4, "image_size": (8, 12)}


def bundle(**settings: Any) -> TokenizerBundle:
    torch.manual_seed(0)
    net, codes = TokenizerNetConfig(widths=(4, 8)), CodebookConfig(dim=3, size=6)
    tokenizer = VQTokenizer(4, 3, 6, net, codes)
    tokenizer.codebook.codes.normal_()
    verdict = {"accepted": True, "reasons": [], "on_alarm": "stop"}
    origin = {"data_hash": "abc", "image_size": [8, 12]}
    return TokenizerBundle(tokenizer, {**describe(tokenizer), **origin, **verdict, **settings})


def refused(on_alarm: str) -> TokenizerBundle:
    return bundle(accepted=False, reasons=["too few codes"], on_alarm=on_alarm)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    made = bundle()
    made.write(tmp_path / "a")
    found = TokenizerBundle.read(tmp_path / "a")
    assert found.manifest == made.manifest
    assert found.tokenizer is not None
    assert made.tokenizer is not None
    images = torch.rand(5, 3, 8, 12)
    assert torch.equal(found.tokenizer.encode(images), made.tokenizer.encode(images))
    assert not any(p.requires_grad for p in found.tokenizer.parameters())


def test_equal_tokenizers_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bundle().write(tmp_path / name)
    for file in ("manifest.json", "tokenizer.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_id_follows_the_weights() -> None:
    made = bundle().tokenizer
    assert made is not None
    before = content_id(made)
    made.codebook.codes[0, 0] += 0.1
    assert content_id(made) != before


def test_a_skipped_stage_leaves_its_reason(tmp_path: Path) -> None:
    bundle().write(tmp_path)
    TokenizerBundle.skipped("mae learns without image tokens").write(tmp_path)
    found = TokenizerBundle.read(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]
    assert found.is_skipped
    assert not found.accepted
    assert found.reasons == ["mae learns without image tokens"]
    with pytest.raises(ValueError, match=r"no tokenizer \(mae learns .* run the tokenizer stage"):
        found.for_training(**FITS)


def test_a_fitting_one_is_handed_out() -> None:
    made = bundle()
    assert made.for_training(**FITS) is made.tokenizer
    kept = refused("keep")
    assert kept.for_training(**FITS) is kept.tokenizer


def test_a_refused_one_stops_the_training() -> None:
    with pytest.raises(ValueError, match=r"was refused: too few codes\. .*on_alarm to keep"):
        refused("stop").for_training(**FITS)


@pytest.mark.parametrize("other", [{"data_hash": "xyz"}, {"patch_size": 8}, {"image_size": (8, 8)}])
def test_one_made_for_something_else_is_named(other: dict[str, Any]) -> None:
    (key,) = other
    with pytest.raises(ValueError, match=f"made for something else .{key} .* now"):
        bundle().for_training(**{**FITS, **other})


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no tokenizer"):
        TokenizerBundle.read(tmp_path)
    bundle().write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for change, text in [
        ({"schema": 9}, "schema 9"),
        ({"vocab_size": 7}, "of other sizes"),
        ({"tokenizer_id": "0" * 16}, "another tokenizer"),
    ]:
        (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(ValueError, match=text):
            TokenizerBundle.read(tmp_path)
    (tmp_path / "tokenizer.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="damaged"):
        TokenizerBundle.read(tmp_path)
