"""What segmentation and detection share: subsets, enlarged encoders, layer-wise rates, one loop."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import nn

from contramask.data.store import Store
from contramask.methods.base import StepOutput
from contramask.models.bundle import EncoderBundle
from contramask.tracker import NullTracker
from contramask.train.device import Machine
from contramask.train.optim import layer_decay_groups
from contramask.train.schedule import warmup_cosine, warmup_poly, warmup_steps
from contramask.transfer.dense import (
    TuneConfig,
    chunks,
    enlarged,
    normalise,
    some,
    spread,
    tunable,
    tune,
)
from contramask.transfer.features import Normalised
from contramask.transfer.running import Named
from contramask.typed import parse

MACHINE = Machine(torch.device("cpu"), "fp32")


def test_spread_covers_the_whole_split() -> None:
    assert spread(10, None).tolist() == list(range(10))
    assert spread(10, 20).tolist() == list(range(10))
    assert spread(97, 31).tolist() == spread(97, 31).tolist() == sorted(spread(97, 31).tolist())
    assert len(set(spread(97, 31).tolist())) == 31
    assert spread(5, 0).tolist() == []


def test_classes_that_take_turns_are_all_met() -> None:
    shares = np.bincount(spread(12_000, 1_500) % 10, minlength=10) / 1_500
    assert shares.min() > 0.07


def test_some_images_keep_their_rows(tiny_store: Store) -> None:
    few = some(tiny_store["val"], 6)
    assert len(few) == 6
    pixels = few.__getitems__(np.array([2, 1]))
    assert np.array_equal(pixels[0], tiny_store["val"].images[few.rows[2]])


def test_chunks_cover_all_rows_once() -> None:
    assert np.concatenate(chunks(7, 3)).tolist() == list(range(7))
    assert [len(part) for part in chunks(7, 3)] == [3, 3, 1]


def test_enlarged_encoders_read_larger_images(tiny_bundle: EncoderBundle) -> None:
    large = enlarged(tiny_bundle, (32, 32), 1.5)
    assert large.encoder.image_size == (48, 48)
    assert large.encoder.grid_size == (6, 6)
    assert large.manifest["arch"]["image_size"] == [48, 48]
    assert tiny_bundle.encoder.image_size == (32, 32)
    images = torch.zeros(2, 32, 32, 3, dtype=torch.uint8)
    assert normalise(images, Normalised(large, MACHINE.device)).shape == (2, 3, 48, 48)
    same = enlarged(tiny_bundle, (32, 32), 1.0)
    assert torch.equal(same.encoder.pos_embed, tiny_bundle.encoder.pos_embed)
    assert same.encoder is not tiny_bundle.encoder


def test_an_upscale_that_cuts_patches_is_refused(tiny_bundle: EncoderBundle) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        enlarged(tiny_bundle, (32, 32), 1.1)


def test_normalise_gives_the_encoders_statistics(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    pixels = tiny_store["train"].__getitems__(range(96))
    inputs = Normalised(tiny_bundle, MACHINE.device)
    ours = normalise(torch.from_numpy(pixels), inputs)
    assert torch.equal(ours, inputs(pixels))
    assert ours.mean().abs() < 0.05


class Wrapped(nn.Module):
    """An encoder inside another module, where timm's own layer decay would do nothing."""

    def __init__(self, bundle: EncoderBundle) -> None:
        super().__init__()
        self.encoder = tunable(bundle.encoder, 0.2)
        self.head = nn.Linear(32, 2)

    def forward(self, batch: dict[str, torch.Tensor]) -> StepOutput:
        tokens = self.encoder.tokens(batch["images"]).mean(dim=1)
        return StepOutput(nn.functional.cross_entropy(self.head(tokens), batch["label"]))


def test_layer_decay_reaches_a_wrapped_encoder(tiny_bundle: EncoderBundle) -> None:
    model = Wrapped(tiny_bundle)
    groups = layer_decay_groups(model.encoder, [model.head], 0.05, 0.5)
    scales = {group["lr_scale"] for group in groups}
    assert scales == {1.0, 0.5, 0.25, 0.125}  # head, two blocks, embedding
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())  # each exactly once
    of = {id(p): g for g in groups for p in g["params"]}
    position, head = of[id(model.encoder.pos_embed)], of[id(model.head.weight)]
    assert (position["lr_scale"], position["weight_decay"]) == (0.125, 0.0)
    assert (head["lr_scale"], head["weight_decay"]) == (1.0, 0.05)


def test_tunable_copies_train_positions_and_drop_paths_deeper_down(
    tiny_bundle: EncoderBundle,
) -> None:
    copy = tunable(tiny_bundle.encoder, 0.2)
    assert copy.pos_embed.requires_grad
    assert not tiny_bundle.encoder.pos_embed.requires_grad
    assert isinstance(copy.blocks[0].drop_path1, nn.Identity)
    assert isinstance(copy.blocks[1].drop_path2, DropPath)
    assert copy.blocks[1].drop_path2.drop_prob == 0.2
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(copy.eval().tokens(images), tiny_bundle.encoder.eval().tokens(images))


class Constant:
    """The same two images in every step."""

    batch_size, steps_per_epoch = 2, 10

    def epoch(self, epoch: int, start: int = 0) -> object:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(2, 3, 32, 32, generator=generator)
        for _ in range(start, self.steps_per_epoch):
            yield {"images": images, "label": torch.tensor([0, 1])}


def test_tune_runs_the_one_loop_with_warmup_and_cosine(tiny_bundle: EncoderBundle) -> None:
    torch.manual_seed(0)
    model = Wrapped(tiny_bundle)
    config = TuneConfig(epochs=4, lr=1e-2, warmup=0.25)
    groups = layer_decay_groups(model.encoder, [model.head], 0.05, 0.5)
    tracker = NullTracker()
    curve = tune(model, Constant(), groups, config, MACHINE, Named("try", 0, tracker))
    assert curve["step"].iloc[-1] == 40
    assert curve["loss"].iloc[-1] < 0.2 * curve["loss"].iloc[0]
    assert curve["lr"].max() == pytest.approx(1e-2, rel=0.05)
    assert curve["lr"].iloc[-1] < 1e-4
    assert curve["lr"].iloc[0] < curve["lr"].max()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", lambda step: warmup_cosine(step, 40, 10)),
        ("poly", lambda step: warmup_poly(step, 40, 10)),
        ("steps", lambda step: warmup_steps(step, 40, 10)),
    ],
)
def test_the_rate_follows_the_chosen_schedule(
    tiny_bundle: EncoderBundle, schedule: str, expected: Callable[[int], float]
) -> None:
    model = Wrapped(tiny_bundle)
    config = parse(TuneConfig, {"epochs": 4, "warmup": 0.25, "schedule": schedule}, "tune")
    groups = layer_decay_groups(model.encoder, [model.head], 0.05, 1.0)
    tracker = NullTracker()
    curve = tune(model, Constant(), groups, config, MACHINE, Named("try", 0, tracker))
    # The first step is not at rate 0, the last one is at the end of the schedule.
    assert curve["lr"].iloc[-1] == pytest.approx(1e-3 * expected(40), abs=1e-9)
    assert len(curve) > 5
    rates = [1e-3 * expected(int(step)) for step in curve["step"]]
    assert curve["lr"].tolist() == pytest.approx(rates)
