"""Everything measured on one readout: which numbers there are, and what nonsense scores."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from contramask.draws import image_keys
from contramask.methods import build_method
from contramask.methods.mae import MAEConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.transfer.readout import Labelled, Measured, ReadoutConfig, measure_readout

SHORT = ReadoutConfig(weight_decays=(1e-3, 1e-1))


def numbers(measured: Measured) -> dict[tuple[str, str], float]:
    return {(protocol, metric): value for _, protocol, metric, value in measured.numbers}


def random_data(classes: int = 10, seed: int = 0) -> Labelled:
    rng = np.random.default_rng(seed)
    train, val = (torch.tensor(rng.normal(size=(n, 12)), dtype=torch.float32) for n in (900, 700))
    labels, truth = (torch.tensor(rng.integers(0, classes, n)) for n in (900, 700))
    return Labelled(train, labels, val, truth, classes)


def test_every_protocol_is_measured() -> None:
    measured = measure_readout(random_data(), SHORT, seed=0)
    found = numbers(measured)
    assert len(found) == len(measured.numbers)  # no number twice under one name
    for k in (10, 20, 100, 200):
        assert (f"knn k={k}, T=0.07", "knn_top1") in found
    assert found["knn", "knn_top1"] == found["knn k=20, T=0.07", "knn_top1"]
    ranked = {"recall_at_1", "recall_at_5", "recall_at_10", "map_at_r", "map_at_100"}
    for protocol in ("retrieval", "retrieval leave-one-out"):
        assert {metric for p, metric in found if p == protocol} == ranked
    for protocol in ("1-shot", "2-shot", "5-shot", "1%", "10%"):
        assert {metric for p, metric in found if p == protocol} == {
            "low_shot_top1",
            "low_shot_top1_sd",
        }
    assert {p for p, metric in found if metric == "linear_top5"} == {"linear"}
    assert {metric for p, metric in found if p == "spectrum"} == {
        *("rankme", "feature_std", "uniformity")
    }
    splits = {(split, metric) for split, p, metric, _ in measured.numbers if p == "spectrum"}
    assert splits == {("train", "rankme"), ("train", "feature_std"), ("val", "uniformity")}
    assert measured.chosen["linear_weight_decay"] in SHORT.weight_decays
    assert measured.value("linear", "linear_top1") == found["linear", "linear_top1"]


def test_features_without_meaning_give_chance() -> None:
    found = numbers(measure_readout(random_data(), SHORT, seed=0))
    for (protocol, metric), value in found.items():
        if metric in ("knn_top1", "linear_top1", "low_shot_top1", "recall_at_1"):
            assert value == pytest.approx(10, abs=4), protocol
        elif metric in ("knn_top5", "linear_top5"):
            assert value == pytest.approx(50, abs=7), protocol


def test_shuffled_labels_give_chance() -> None:
    rng = np.random.default_rng(0)
    labels, truth = (torch.tensor(rng.integers(0, 10, n)) for n in (900, 700))
    centres = torch.tensor(rng.normal(size=(10, 12)), dtype=torch.float32)
    right = Labelled(centres[labels], labels, centres[truth], truth, 10)
    found = numbers(measure_readout(right, SHORT, seed=0))
    assert {found[p, "low_shot_top1"] for p in ("1-shot", "5-shot")} == {100.0}
    shuffled = labels[torch.tensor(rng.permutation(900))]
    wrong = Labelled(right.train, shuffled, right.val, truth, 10)
    found = numbers(measure_readout(wrong, SHORT, seed=0))
    # Only ten different features exist, so ten draws decide: chance, with a wide margin.
    assert found["10%", "low_shot_top1"] < 45
    assert found["knn", "knn_top1"] < 45
    assert found["retrieval", "map_at_r"] < 5


def test_collapsed_features_are_measured_and_found_out() -> None:
    data = random_data(classes=3)
    constant = Labelled(
        *(torch.full_like(data.train, 0.7), data.labels, torch.full_like(data.val, 0.7)),
        *(data.truth, 3),
    )
    found = numbers(measure_readout(constant, SHORT, seed=0))
    assert all(np.isfinite(value) for value in found.values())
    assert found["spectrum", "rankme"] == pytest.approx(1, abs=1e-3)
    assert found["spectrum", "feature_std"] == pytest.approx(0, abs=1e-5)
    most = int(torch.bincount(data.labels).argmax())
    assert found["linear", "linear_top1"] == pytest.approx(
        100 * float((data.truth == most).float().mean())
    )
    assert not [metric for _, metric in found if metric.endswith("top5")]  # of three classes


def test_galleries_are_chosen() -> None:
    data = random_data()
    train_only = numbers(measure_readout(data, ReadoutConfig(galleries=("train",)), seed=0))
    none = numbers(measure_readout(data, ReadoutConfig(galleries=()), seed=0))
    assert ("retrieval", "map_at_r") in train_only
    assert ("retrieval leave-one-out", "map_at_r") not in train_only
    assert not [protocol for protocol, _ in none if protocol.startswith("retrieval")]
    assert none["knn", "knn_top1"] == train_only["knn", "knn_top1"]


def test_one_val_image_and_one_class_are_enough() -> None:
    train, labels = torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
    found = numbers(
        measure_readout(Labelled(train, labels, train[:1], labels[:1], 1), SHORT, seed=0)
    )
    assert found["knn", "knn_top1"] == found["linear", "linear_top1"] == 100
    assert ("spectrum", "uniformity") not in found


def test_a_trained_encoder_beats_its_random_start() -> None:
    """Where a few steps of learning help, few labels and retrieval must see it."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    images = F.interpolate(images, (16, 16), mode="bilinear")
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    config = EncoderConfig(patch_size=4, embed_dim=32, depth=2, num_heads=2)
    encoder = build_encoder(config, (16, 16), 1)
    before = _measure(encoder, images, labels, 1300)
    head = torch.nn.Linear(32, 10)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)
    for step in range(150):
        batch = slice(32 * step % 1200, 32 * step % 1200 + 32)
        tokens = encoder.forward_tokens(images[batch])
        loss = F.cross_entropy(head(tokens[:, 1:].mean(dim=1)), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = _measure(encoder, images, labels, 1300)
    assert after["5-shot", "low_shot_top1"] > before["5-shot", "low_shot_top1"] + 10
    assert after["retrieval", "recall_at_1"] > before["retrieval", "recall_at_1"] + 10
    assert after["retrieval", "map_at_r"] > before["retrieval", "map_at_r"] + 10


def gratings(count: int) -> tuple[Tensor, Tensor]:
    """Noisy waves (N, 1, 16, 16) of eight directions, which are their labels (N,).

    Phase, contrast and brightness are random: no pixel and no mean tells the direction.
    """
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 8
    phase, contrast = (torch.rand(count, 1, 1, generator=draws) for _ in range(2))
    ground = torch.randn(count, 1, 1, generator=draws)
    noise = 0.5 * torch.randn(count, 16, 16, generator=draws)
    angle = (labels * torch.pi / 8)[:, None, None]
    row, col = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    along = (angle.cos() * col + angle.sin() * row) / 6  # in wave lengths of 6 px
    waves = (0.5 + contrast) * (2 * torch.pi * (along + phase)).sin() + ground + noise
    return waves[:, None], labels


def test_masked_image_modelling_without_labels_beats_its_random_start() -> None:
    """MAE must find the direction of waves to paint hidden patches; nobody tells it the labels.

    5-shot, R@1 and mAP@R before and after in trials: 25, 32, 4 and 81, 94, 48 with seed 1;
    24, 35, 4 and 78, 91, 46 with seed 2. With seed 0: 30, 38, 5 and, 100 steps earlier, 66, 84, 28.
    """
    images, labels = gratings(1000)
    torch.manual_seed(0)
    config = EncoderConfig(patch_size=4, embed_dim=32, depth=2, num_heads=2)
    encoder = build_encoder(config, (16, 16), 1)
    decoder = DecoderConfig(embed_dim=32, depth=1, num_heads=2)
    method = build_method(MAEConfig(decoder=decoder, mask_ratio=0.5), encoder)
    before = _measure(encoder.eval(), images, labels, 600)
    optimizer = torch.optim.AdamW(method.train().parameters(), lr=3e-3, betas=(0.9, 0.95))
    for step in range(500):
        ids = torch.arange(64 * step, 64 * step + 64) % 576
        loss = method({"view": images[ids], "key": image_keys(0, step, ids)}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = _measure(encoder.eval(), images, labels, 600)
    for number in (("5-shot", "low_shot_top1"), ("retrieval", "recall_at_1")):
        assert after[number] > before[number] + 20
    assert after["retrieval", "map_at_r"] > before["retrieval", "map_at_r"] + 10


@torch.no_grad()
def _measure(
    encoder: VisionEncoder, images: Tensor, labels: Tensor, split: int
) -> dict[tuple[str, str], float]:
    """Everything measured on mean patch tokens; images from `split` on are the val images."""
    features = encoder.forward_tokens(images)[:, 1:].mean(dim=1)
    classes = int(labels.max()) + 1
    data = Labelled(features[:split], labels[:split], features[split:], labels[split:], classes)
    return numbers(measure_readout(data, SHORT, seed=0))
