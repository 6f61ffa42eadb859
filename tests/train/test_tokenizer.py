"""The tokenizer's training: healthy tokens from few images, judged, resumable, skipped if idle."""

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contramask.data.store import Store
from contramask.failures import StageFailure
from contramask.methods.base import Batch, StepOutput
from contramask.methods.mae import MAEConfig
from contramask.methods.supmim import SupMIMConfig
from contramask.models.codebook import CodebookConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig
from contramask.models.token_health import TokenGates
from contramask.models.tokenizer import TokenizerNetConfig
from contramask.models.tokenizer_bundle import TRAIN_TFLOP, TokenizerBundle
from contramask.results import COLUMNS, RunInfo, StageOutput
from contramask.tracker import NullTracker
from contramask.train.checkpoint import Keeper
from contramask.train.device import LaunchConfig
from contramask.train.plan import training_tflop
from contramask.train.pretrain import pretrain
from contramask.train.pretrain_config import PretrainConfig
from contramask.train.tokenizer import (
    TokenizerConfig,
    TokenizerResult,
    TokenizerTraining,
    train_tokenizer,
)

RUN = RunInfo("supmim-0000-s3", "0000", 3)
CPU = LaunchConfig(device="cpu", precision="fp32")
CONFIG = TokenizerConfig(
    net=TokenizerNetConfig(widths=(12, 24)),
    codebook=CodebookConfig(size=24, dim=8),
    epochs=32,  # half of that leaves two seeds in five with an uneven codebook
    batch_size=32,
    lr=4e-3,
    flip=0.0,
    log_every=4,
)
FOR = PretrainConfig(
    method=SupMIMConfig(decoder=DecoderConfig(embed_dim=16, depth=1, num_heads=2)),
    encoder=EncoderConfig(patch_size=4, embed_dim=16, depth=1, num_heads=2),
    epochs=1,
    batch_size=32,
    warmup_epochs=0,
    log_every=1,
)


def trained(
    store: Store, work: Path, config: TokenizerConfig = CONFIG, user: PretrainConfig = FOR
) -> TokenizerResult:
    return train_tokenizer(store, config, user, RUN, CPU, work, NullTracker())


@pytest.fixture(scope="module")
def result(tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> TokenizerResult:
    return trained(tiny_store, tmp_path_factory.mktemp("work"))


def test_what_the_machine_refuses_is_told(
    tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = TokenizerTraining.forward

    def limited(self: TokenizerTraining, batch: Batch) -> StepOutput:
        if len(batch["view"]) > 9:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, batch)

    monkeypatch.setattr(TokenizerTraining, "forward", limited)
    with pytest.raises(StageFailure, match=r"8 fitted in a trial: set tokenizer\.batch_size to 8"):
        trained(tiny_store, tmp_path)
    monkeypatch.undo()

    def full(keeper: Keeper, state: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(keeper.path))

    monkeypatch.setattr(Keeper, "save", full)
    with pytest.raises(StageFailure, match=r"the disk is full: .*last\.pt .*checkpoint is kept"):
        trained(tiny_store, tmp_path, replace(CONFIG, epochs=1))


def test_it_learns_to_draw_with_most_of_its_codes(result: TokenizerResult) -> None:
    curve, health = result.output.tables["curve"], result.bundle.manifest["health"]
    assert curve["recon_loss"].iloc[-1] < 0.4 * curve["recon_loss"].iloc[0]
    assert health["perplexity_share"] > 0.5
    assert health["error"] < 0.1
    assert health["split"] == "val"
    assert health["tokens"] == 48 * 64


def test_an_accepted_tokenizer_serves_the_encoder_it_was_made_for(
    result: TokenizerResult, tiny_store: Store
) -> None:
    assert result.bundle.accepted, result.bundle.reasons
    made = result.bundle.for_training(tiny_store.data_hash, 4, (32, 32))
    images = torch.from_numpy(tiny_store["val"].__getitems__(np.arange(4)))
    assert made.encode(images.permute(0, 3, 1, 2) / 255).shape == (4, 64)


def test_a_painted_patch_is_seen_in_its_own_place(
    result: TokenizerResult, tiny_store: Store
) -> None:
    """Drawn from its tokens, a picture differs most where its patch was painted."""
    made = result.bundle.tokenizer
    assert made is not None
    images = torch.from_numpy(tiny_store["val"].__getitems__(np.arange(8)))
    images = images.permute(0, 3, 1, 2) / 255
    for number, (row, col) in enumerate([(0, 0), (2, 5), (7, 1), (4, 4)]):
        painted = images.clone()
        place = (slice(4 * row, 4 * row + 4), slice(4 * col, 4 * col + 4))
        painted[:, :, place[0], place[1]] = (number % 2) * 1.0
        before, after = made.encode(images), made.encode(painted)
        change = (made.decode(before, (8, 8)) - made.decode(after, (8, 8))).abs()
        per_patch = torch.nn.functional.avg_pool2d(change.mean(dim=(0, 1))[None], 4)[0]
        assert divmod(int(per_patch.argmax()), 8) == (row, col)


def test_the_output_tells_all(result: TokenizerResult, tmp_path: Path) -> None:
    result.output.write(tmp_path)
    found = StageOutput.read(tmp_path)
    rows = found.rows.set_index("metric")
    assert list(found.rows.columns) == COLUMNS
    assert set(rows.index) == {
        *("perplexity", "used_codes", "top_code", "token_stability", "pixel_error"),
    }
    assert rows.loc["perplexity", "value"] == pytest.approx(
        found.facts["health"]["perplexity"], rel=1e-5
    )
    # Under the name and sizes of the experiment the tokens are for: no table gets a new row.
    assert set(rows["method"]) == {"supmim"}
    assert set(rows["encoder"]) == {"16x1/4, 2 heads, MLP 4, 32x32 px"}
    assert {"step", "loss", "recon_loss", "commitment", "perplexity"} <= set(found.tables["curve"])
    assert found.tables["codes"]["share"].sum() == pytest.approx(1)
    assert found.arrays["original"].shape == found.arrays["reconstruction"].shape == (12, 32, 32, 3)
    assert found.arrays["original"].dtype == np.uint8
    assert found.arrays["tokens"].shape == (12, 8, 8)
    assert found.facts["accepted"]
    assert found.facts["tokenizer_id"] == result.bundle.tokenizer_id
    assert found.facts["plan"]["tokens an image"] == "8x8"


class Interrupted(Exception):
    pass


class Interrupting(NullTracker):
    """Stops the training at its second log line, after checkpoints were written."""

    def log(self, metrics: Any, step: int) -> None:
        if step >= 8:
            raise Interrupted


def test_an_interrupted_training_ends_where_it_would_have(
    tiny_store: Store, tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=5, save_minutes=0.0)
    whole = trained(tiny_store, tmp_path / "a", config)
    with pytest.raises(Interrupted):
        train_tokenizer(tiny_store, config, FOR, RUN, CPU, tmp_path / "b", Interrupting())
    assert (tmp_path / "b" / "last.pt").exists()
    continued = trained(tiny_store, tmp_path / "b", config)
    assert continued.bundle.tokenizer_id == whole.bundle.tokenizer_id
    assert continued.bundle.manifest == whole.bundle.manifest
    again = trained(tiny_store, tmp_path / "b", config)  # nobody said that all is saved
    assert again.bundle.tokenizer_id == whole.bundle.tokenizer_id


def test_poor_tokens_are_refused_with_a_sentence(tiny_store: Store, tmp_path: Path) -> None:
    strict = replace(CONFIG, epochs=1, gates=TokenGates(min_perplexity=1.0))
    made = trained(tiny_store, tmp_path, strict)
    assert not made.bundle.accepted
    assert "equally frequent codes of 24" in made.bundle.reasons[0]
    assert made.output.facts["reasons"] == made.bundle.reasons
    with pytest.raises(ValueError, match="was refused"):
        made.bundle.for_training(tiny_store.data_hash, 4, (32, 32))
    kept = trained(tiny_store, tmp_path, replace(strict, on_alarm="keep")).bundle
    assert kept.for_training(tiny_store.data_hash, 4, (32, 32)) is kept.tokenizer


@pytest.mark.parametrize(
    "method",
    [MAEConfig(), SupMIMConfig(lambda_mim=0.0), SupMIMConfig(target={"name": "pixels"})],  # type: ignore[arg-type]
)
def test_methods_without_tokens_are_not_made_to_wait(
    method: MAEConfig | SupMIMConfig, tiny_store: Store, tmp_path: Path
) -> None:
    made = trained(tiny_store, tmp_path, user=replace(FOR, method=method))
    assert made.bundle.is_skipped
    assert "learns without image tokens" in made.output.facts["skipped"]
    assert len(made.output.rows) == 0
    assert not list(tmp_path.iterdir())


def test_images_without_classes_are_refused_before_anything_is_trained(
    plain_store: Store, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="supmim learns from classes and these images have none"):
        trained(plain_store, tmp_path, replace(CONFIG, batch_size=16))
    assert not list(tmp_path.iterdir())


def test_too_few_held_out_images_are_judged_on_train_images(
    plain_store: Store, tmp_path: Path
) -> None:
    config = replace(CONFIG, epochs=1, batch_size=16, codebook=CodebookConfig(size=8, dim=4))
    labelled = Store(plain_store.folder, {**plain_store.manifest, "classes": ["any"]})
    made = trained(labelled, tmp_path, config)
    assert made.bundle.manifest["health"]["split"] == "train"
    assert set(made.output.rows["split"]) == {"train"}


def test_other_sizes_than_the_stores(tiny_store: Store, tmp_path: Path) -> None:
    """Views of 28 px in patches of 14: tokens read 16 px each."""
    config = replace(CONFIG, epochs=1, codebook=CodebookConfig(size=8, dim=4))
    sizes = EncoderConfig(patch_size=14, embed_dim=16, depth=1, num_heads=2)
    made = trained(tiny_store, tmp_path, config, replace(FOR, image_size=28, encoder=sizes))
    assert made.output.facts["plan"]["tokens an image"] == "2x2"
    assert made.output.arrays["tokens"].shape == (12, 2, 2)
    assert made.output.arrays["original"].shape == (12, 28, 28, 3)
    assert made.bundle.manifest["image_size"] == [28, 28]


def test_beta_weighs_what_pulls_the_encoder(result: TokenizerResult) -> None:
    made = result.bundle.tokenizer
    assert made is not None
    batch = {"view": torch.rand(2, 3, 8, 8)}
    one, none = (TokenizerTraining(made, beta)(batch) for beta in (0.25, 0.0))
    added = one.loss - none.loss
    torch.testing.assert_close(added, 0.25 * one.terms["commitment"])


def test_pretraining_takes_the_tokenizer_and_names_it(
    result: TokenizerResult, tiny_store: Store, tmp_path: Path
) -> None:
    result.bundle.write(tmp_path / "tokenizer")
    bundle = TokenizerBundle.read(tmp_path / "tokenizer")
    done = pretrain(tiny_store, None, FOR, RUN, CPU, tmp_path / "work", NullTracker(), bundle)
    assert {"class_loss", "mim_loss", "token_gain", "grad_ratio"} <= set(
        done.output.tables["curve"]
    )
    assert done.output.facts["ingredients"] == {"tokenizer": bundle.tokenizer_id}
    # It is trained once, for this pre-training: its compute is part of what that has cost.
    own = training_tflop(done.output.facts["plan"])
    tokens = training_tflop(result.output.facts["plan"])
    spent = done.bundle.manifest
    assert spent["tokenizer_tflop"] == done.output.facts["tokenizer_tflop"] == tokens > 0
    assert spent["pretrain_tflop"] == pytest.approx(own + tokens)
    assert done.output.arrays["reconstruction"].shape == (12, 32, 32, 3)
    assert done.bundle.manifest["method"] == "supmim"
    assert set(done.output.rows["encoder"]) == set(result.output.rows["encoder"])


def test_a_tokenizer_of_unknown_cost_is_left_out_and_said(
    result: TokenizerResult, tiny_store: Store, tmp_path: Path
) -> None:
    older = {k: v for k, v in result.bundle.manifest.items() if k != TRAIN_TFLOP}
    bundle = TokenizerBundle(result.bundle.tokenizer, older)
    done = pretrain(tiny_store, None, FOR, RUN, CPU, tmp_path, NullTracker(), bundle)
    assert done.bundle.manifest["tokenizer_tflop"] is None
    own = training_tflop(done.output.facts["plan"])
    assert done.bundle.manifest["pretrain_tflop"] == pytest.approx(own)
