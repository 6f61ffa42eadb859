"""Fine-tuning: rows, curve and confusion, the recipe's parts, and what it does without labels."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from timm.layers.drop import DropPath

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.models.family import for_tuning, set_drop_path
from contramask.results import COLUMNS, StageOutput
from contramask.tracker import NullTracker
from contramask.train.device import LaunchConfig, Machine
from contramask.train.optim import layer_decay_groups
from contramask.transfer.classifier_training import Classifier, MixedTraining
from contramask.transfer.features import labelled
from contramask.transfer.finetune import (
    _loader,
    _scores,
    _Task,
    _train_images,
    run_finetune,
)
from contramask.transfer.finetune_config import FinetuneConfig
from contramask.transfer.running import Work
from contramask.typed import ConfigError, parse

FP32 = LaunchConfig(device="cpu", precision="fp32")
MACHINE = Machine(torch.device("cpu"), "fp32")
SHORT = FinetuneConfig(epochs=2, batch_size=32, log_every=3)
#: No regularisation at all, for what must simply be learnt.
PLAIN = FinetuneConfig(
    epochs=10,
    batch_size=16,
    base_lr=0.05,
    layer_decay=1.0,
    drop_path=0,
    mixup=0,
    cutmix=0,
    label_smoothing=0,
    random_erasing=0,
    crop_scale=(0.8, 1.0),
    anchor=False,
)


class Recorder(NullTracker):
    """Keeps what is logged, with its step."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log(self, metrics: object, step: int) -> None:
        self.lines.append((step, dict(metrics)))  # type: ignore[call-overload]


def top1_of(output: StageOutput) -> pd.Series:
    """The accuracies among the rows."""
    return output.rows.loc[output.rows["metric"] == "finetune_top1", "value"]


def task_of(store: Store, config: FinetuneConfig = SHORT) -> _Task:
    """What a run shares, for scoring alone."""
    val = labelled(store["val"])
    truth = torch.from_numpy(val.labels)
    return _Task(store, config, MACHINE, val, truth, Work(None, "finetune", {}, ""))


def test_rows_tables_arrays_and_facts(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = {name: value.clone() for name, value in tiny_bundle.encoder.state_dict().items()}
    tracker, folder = Recorder(), tmp_path_factory.mktemp("finetune")
    run_finetune(tiny_bundle, tiny_store, SHORT, FP32, tracker).write(folder)
    output = StageOutput.read(folder)
    rows = output.rows
    assert rows.columns.tolist() == COLUMNS
    assert rows["method"].unique().tolist() == ["cmae", "random_init"]
    assert set(rows["protocol"]) == {"finetune"}
    assert set(rows["metric"]) == {"finetune_top1", "finetune_top5", "finetune_ece"}
    rows = rows[rows["metric"] == "finetune_top1"]
    for method, value in zip(rows["method"], rows["value"], strict=True):
        confusion = output.arrays[f"{method}/confusion"]
        truth = np.bincount(tiny_store["val"].labels, minlength=10)
        assert np.array_equal(confusion.sum(axis=1), truth)  # rows are the true classes
        assert value == pytest.approx(100 * confusion.trace() / 48, abs=1e-4)
        curve = output.tables[f"{method}-curve"]
        assert curve["step"].tolist() == [3, 6]
        assert {"epoch", "lr", "loss"} <= set(curve)
    assert output.facts["config"]["epochs"] == 2
    assert output.facts["classes"] == tiny_store.manifest["classes"]
    lines = tracker.lines
    assert len(lines) == 2 * 3  # two points of a curve and the scores, of either encoder
    for prefix, own, value in zip(
        ("finetune", "finetune/random_init"), (lines[:3], lines[3:]), rows["value"], strict=True
    ):
        assert set(own[0][1]) >= {f"{prefix}/loss", f"{prefix}/lr"}
        step, last = own[-1]
        assert step == 6
        assert set(last) == {f"{prefix}/finetune_{name}" for name in ("top1", "top5", "ece")}
        assert last[f"{prefix}/finetune_top1"] == value
    # The encoder that was given is left as it was.
    for name, value in tiny_bundle.encoder.state_dict().items():
        assert torch.equal(value, before[name])
    assert not tiny_bundle.encoder.pos_embed.requires_grad


def test_the_same_seed_gives_the_same_numbers(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    config = replace(SHORT, epochs=1, log_every=1, anchor=False, random_erasing=1.0)
    outputs = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # whatever was drawn before
        np.random.seed(noise)
        outputs.append(run_finetune(tiny_bundle, tiny_store, config, FP32, NullTracker()))
    first, second = (output.tables["cmae-curve"] for output in outputs)
    times = ["images_per_s", "data_wait"]
    pd.testing.assert_frame_equal(first.drop(columns=times), second.drop(columns=times))
    assert first["loss"].nunique() == len(first)
    assert outputs[0].rows["value"].tolist() == outputs[1].rows["value"].tolist()
    assert np.array_equal(outputs[0].arrays["cmae/confusion"], outputs[1].arrays["cmae/confusion"])


def test_it_learns_and_leaves_the_unlabelled_out(
    shade_store: Store, shade_bundle: EncoderBundle
) -> None:
    output = run_finetune(shade_bundle, shade_store, PLAIN, FP32, NullTracker())
    assert top1_of(output).tolist() == [100.0]
    assert output.tables["cmae-worst"].empty  # there are no mistakes
    assert "cmae/worst_images" not in output.arrays
    assert output.arrays["cmae/confusion"].tolist() == [[8, 0], [0, 8]]
    assert output.tables["cmae-curve"]["loss"].iloc[-1] < 0.3


def test_bf16_runs(shade_store: Store, shade_bundle: EncoderBundle) -> None:
    config = replace(SHORT, epochs=1, batch_size=16, anchor=False)
    launch = LaunchConfig(device="cpu", precision="bf16")
    output = run_finetune(shade_bundle, shade_store, config, launch, NullTracker())
    assert output.tables["cmae-curve"]["loss"].notna().all()


def test_it_is_skipped_without_labels_or_val_images(
    plain_store: Store,
    tiny_store: Store,
    tiny_bundle: EncoderBundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = run_finetune(tiny_bundle, plain_store, SHORT, FP32, NullTracker())
    assert output.rows.empty
    assert output.facts == {"stage": "finetune", "skipped": "the images have no class labels"}
    monkeypatch.setattr(tiny_store, "splits", {"train": tiny_store["train"]})
    output = run_finetune(tiny_bundle, tiny_store, SHORT, FP32, NullTracker())
    assert output.facts["skipped"] == "there are no validation images with a class label"


def test_fewer_images_than_a_batch_are_refused(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    with pytest.raises(ValueError, match="a batch of 128 cannot be filled from 96 images"):
        run_finetune(tiny_bundle, tiny_store, FinetuneConfig(), FP32, NullTracker())


def test_a_limit_keeps_classes_balanced(tiny_store: Store, shade_store: Store) -> None:
    some = _train_images(tiny_store["train"], 40)
    assert np.bincount(some.labels, minlength=10).tolist() == [4] * 10
    shades = _train_images(shade_store["train"], 10)
    assert np.bincount(shades.labels).tolist() == [5, 5]
    assert np.array_equal(some.rows, _train_images(tiny_store["train"], 40).rows)
    assert len(_train_images(tiny_store["train"], 1000)) == 96


def test_the_classifier_pools_patches_before_a_new_norm(tiny_bundle: EncoderBundle) -> None:
    encoder = tiny_bundle.encoder
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pooled = encoder.eval().tokens(images)[:, 1:].mean(dim=1)
    model = Classifier(encoder, 10).eval()
    assert isinstance(encoder.norm, torch.nn.Identity)
    weight = model.head[1].weight
    assert float(weight.detach().std()) == pytest.approx(2e-5, rel=0.3)
    assert not model.head[1].bias.any()
    expected = torch.nn.functional.layer_norm(pooled, (32,), eps=1e-6) @ weight.T
    torch.testing.assert_close(model(images), expected, atol=1e-6, rtol=1e-3)


def test_nothing_is_dropped_while_scoring(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    set_drop_path(tiny_bundle.encoder.blocks, 0.5)
    model = Classifier(tiny_bundle.encoder, 10).train()
    torch.nn.init.normal_(model.head[1].weight)
    scores = [_scores(model, tiny_bundle, task_of(tiny_store)) for _ in range(2)]
    assert scores[0].shape == (48, 10)
    assert torch.equal(scores[0], scores[1])


def test_drop_path_rises_with_depth(tiny_bundle: EncoderBundle) -> None:
    encoder = tiny_bundle.encoder
    set_drop_path(encoder.blocks, 0.2)
    assert isinstance(encoder.blocks[0].drop_path1, torch.nn.Identity)
    last = encoder.blocks[1].drop_path2
    assert isinstance(last, DropPath)
    assert last.drop_prob == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("mixup", "cutmix"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0), (0.0, 0.0)], ids=str
)
def test_mixing_can_be_switched_off(
    tiny_bundle: EncoderBundle, mixup: float, cutmix: float
) -> None:
    training = MixedTraining(Classifier(tiny_bundle.encoder, 10), 10, mixup, cutmix, 0.1)
    seen = {}
    training.classifier.forward = lambda images: seen.setdefault("images", images)[:, 0, :1, :10]
    training.criterion.forward = lambda scores, targets: seen.setdefault("targets", targets).sum()
    images = torch.randn(4, 3, 32, 32)
    torch.manual_seed(1)
    training({"view": images.clone(), "label": torch.tensor([0, 1, 2, 3])})
    targets = seen["targets"]
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4))
    if mixup or cutmix:
        assert not torch.equal(seen["images"], images)
        # An image of the batch read backwards is mixed in, and so is its label.
        assert (targets > 0.02).sum(dim=1).tolist() == [2, 2, 2, 2]
        assert (targets[0] > 0.02).nonzero().flatten().tolist() == [0, 3]
    else:
        assert torch.equal(seen["images"], images)
        torch.testing.assert_close(targets.diagonal(), torch.full((4,), 0.91))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_random_erasing_paints_noise_into_the_view(
    tiny_store: Store, tiny_bundle: EncoderBundle, probability: float
) -> None:
    config = replace(SHORT, random_erasing=probability, crop_scale=(1.0, 1.0), flip=0.0)
    batch = next(_loader(tiny_bundle, tiny_store, config, MACHINE, None).epoch(0))
    plain = replace(config, random_erasing=0.0)
    expected = next(_loader(tiny_bundle, tiny_store, plain, MACHINE, None).epoch(0))["view"]
    changed = (batch["view"] != expected).any(dim=1).float().mean(dim=(1, 2))
    if probability:
        assert (changed > 0.01).all()
        assert (changed < 0.5).all()
    else:
        assert not changed.any()


def test_rand_augment_alters_each_image_by_its_key(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    plain = replace(SHORT, random_erasing=0.0, crop_scale=(1.0, 1.0), flip=0.0)
    config = replace(plain, rand_augment="rand-m9-mstd0.5-inc1")
    first, again = (
        next(_loader(tiny_bundle, tiny_store, config, MACHINE, None).epoch(0)) for _ in range(2)
    )
    before = next(_loader(tiny_bundle, tiny_store, plain, MACHINE, None).epoch(0))
    assert torch.equal(first["view"], again["view"])
    changed = (first["view"] - before["view"]).abs().amax(dim=(1, 2, 3)) > 0.1
    assert changed.float().mean() > 0.5  # each of two operations is done with probability 0.5
    assert not changed.all()
    later = next(_loader(tiny_bundle, tiny_store, config, MACHINE, None).epoch(1))
    assert not torch.equal(first["index"], later["index"])


def test_averaged_weights_are_measured_beside_the_last(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    config = replace(SHORT, ema=0.5, anchor=False)
    output = run_finetune(tiny_bundle, tiny_store, config, FP32, NullTracker())
    assert output.rows["readout"].unique().tolist() == ["mean", "mean, EMA"]
    training = MixedTraining(Classifier(tiny_bundle.encoder, 10), 10, 0, 0, 0, ema=0.75)
    weight, average = training.classifier.head[1].weight, training.average.head[1].weight
    with torch.no_grad():
        weight.fill_(4.0)
        average.fill_(0.0)
    training.after_step(0.5)
    torch.testing.assert_close(average, torch.ones_like(average))
    assert not average.requires_grad


def test_shares_of_the_labels_are_rows_of_their_own(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    config = replace(SHORT, epochs=1, fractions=(0.25,), anchor=False, log_every=1)
    output = run_finetune(tiny_bundle, tiny_store, config, FP32, NullTracker())
    assert output.rows["protocol"].unique().tolist() == ["finetune", "finetune 25 %"]
    # 96 images in batches of 32 are three steps; a quarter of them is one batch of 24.
    assert len(output.tables["cmae-curve"]) == 3
    assert len(output.tables["cmae-25-percent-curve"]) == 1


def test_a_random_network_may_train_for_the_same_compute(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    config = replace(SHORT, epochs=1, compute_matched=True, log_every=1)
    cost = 0.002
    tiny_bundle.manifest["pretrain_tflop"] = cost
    output = run_finetune(tiny_bundle, tiny_store, config, FP32, NullTracker())
    matched = output.rows[output.rows["protocol"] == "finetune compute-matched"]
    assert matched["method"].unique().tolist() == ["random_init"]
    steps = len(output.tables["random_init-compute-matched-curve"])
    assert steps > len(output.tables["random_init-curve"])
    assert steps % 3 == 0  # whole epochs of three steps
    # Twice the pre-training pays for twice the additional epochs.
    tiny_bundle.manifest["pretrain_tflop"] = 2 * cost
    again = run_finetune(tiny_bundle, tiny_store, config, FP32, NullTracker())
    longer = len(again.tables["random_init-compute-matched-curve"])
    assert longer - 3 == pytest.approx(2 * (steps - 3), abs=3)
    del tiny_bundle.manifest["pretrain_tflop"]
    none = run_finetune(tiny_bundle, tiny_store, config, FP32, NullTracker())
    assert "finetune compute-matched" not in set(none.rows["protocol"])


def test_the_centre_is_what_is_scored(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    model = Classifier(tiny_bundle.encoder, 10)
    torch.nn.init.normal_(model.head[1].weight)
    whole = _scores(model, tiny_bundle, task_of(tiny_store))
    half = _scores(model, tiny_bundle, task_of(tiny_store, replace(SHORT, eval_crop=0.5)))
    assert not torch.allclose(whole, half, atol=1e-3)


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 15},
        {"drop_path": 1.0},
        {"crop_scale": [0.5, 0.1]},
        {"mixup": -1},
        {"ema": 1.0},
        {"fractions": [1.5]},
        {"eval_crop": 0},
        {"rand_augment": "auto-x3"},
        {"rand_augment": "rand-mx"},
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"finetune.{next(iter(values))}"):
        parse(FinetuneConfig, values, "finetune")


def test_conmims_beit_is_fine_tuned_and_left_as_it_was(
    tiny_store: Store, conmim_bundle: EncoderBundle
) -> None:
    before = {name: value.clone() for name, value in conmim_bundle.encoder.state_dict().items()}
    output = run_finetune(conmim_bundle, tiny_store, SHORT, FP32, NullTracker())
    assert output.rows["method"].unique().tolist() == ["conmim", "random_init"]
    assert set(output.rows["encoder"]) == {"BEiT 32x2/8, 2 heads, MLP 4, 32x32 px"}
    assert output.rows["value"].between(0, 100).all()
    assert output.arrays["conmim/confusion"].sum() == 48
    assert output.tables["conmim-curve"]["loss"].notna().all()
    after = conmim_bundle.encoder.state_dict()
    assert before.keys() == after.keys()  # the bias is still shared
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_all_of_a_beit_is_fine_tuned(tiny_store: Store, conmim_bundle: EncoderBundle) -> None:
    """Every parameter moves, each block's own copy of the position bias among them."""
    tuned = for_tuning(conmim_bundle.encoder)
    names = {name for name, _ in tuned.named_parameters()}
    assert {f"blocks.{i}.attn.relative_position_bias_table" for i in (0, 1)} < names
    classifier = Classifier(tuned, 10)
    groups = layer_decay_groups(tuned, [classifier.head], 0.05, 0.75)
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in classifier.parameters()}
    images = torch.from_numpy(tiny_store["train"].__getitems__(np.arange(4)))
    images = images.permute(0, 3, 1, 2) / 255
    classifier.head[1].weight.data += 0.1  # starts near zero
    classifier(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in classifier.parameters())
