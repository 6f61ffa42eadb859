"""Counter-based random numbers: uniform, independent, and the same wherever they are drawn."""

import pytest
import torch

from contramask.draws import image_keys, uniform

MASK_64 = (1 << 64) - 1


def mix(value: int) -> int:
    """The finaliser of splitmix64 on unsigned Python integers."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
    return value ^ (value >> 31)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


def test_known_numbers_never_change() -> None:
    """Golden values: whoever changes them makes every published seed mean something else."""
    keys = image_keys(7, 3, torch.tensor([0, 1, 12345]))
    assert keys.tolist() == [848985400651592037, -654790251357115746, -5642141256264708606]
    assert (uniform(keys, 0, 3) * 2**24).tolist() == [
        [16515923, 4922540, 3170623],
        [8867579, 15024468, 11203320],
        [1508287, 214304, 12694376],
    ]
    assert (uniform(keys, 64, 3) * 2**24).tolist() == [
        [8303874, 15833030, 8498323],
        [14715437, 1418571, 12574440],
        [9325217, 15972642, 8784954],
    ]


def test_signed_arithmetic_equals_unsigned_splitmix() -> None:
    keys = image_keys(1, 2, torch.arange(20))
    gamma = 0x9E3779B97F4A7C15
    for key, drawn in zip(keys.tolist(), uniform(keys, 5, 4), strict=True):
        lane = mix((key & MASK_64) ^ ((6 * 0x5851F42D4C957F2D) & MASK_64))
        expected = [mix((lane + (i + 1) * gamma) & MASK_64) >> 40 for i in range(4)]
        assert (drawn * 2**24).tolist() == expected


def test_numbers_fill_the_unit_interval_evenly() -> None:
    drawn = uniform(image_keys(0, 0, torch.arange(2000)), 3, 50)
    assert drawn.dtype == torch.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.histc(drawn, bins=100, min=0, max=1)
    chi_square = float(((counts - 1000) ** 2 / 1000).sum())
    assert 60 < chi_square < 150  # 99 degrees of freedom: 99 +- 14
    per_place = drawn.mean(dim=0)
    assert (per_place - 0.5).abs().max() < 5 / (12 * 2000) ** 0.5


def test_neighbouring_seeds_epochs_images_streams_and_places_are_unrelated() -> None:
    index = torch.arange(4000)
    base = uniform(image_keys(0, 0, index), 0, 5)
    others = {
        "seed": uniform(image_keys(1, 0, index), 0, 5),
        "epoch": uniform(image_keys(0, 1, index), 0, 5),
        "image": uniform(image_keys(0, 0, index + 1), 0, 5),
        "stream": uniform(image_keys(0, 0, index), 1, 5),
        "place": base.roll(1, dims=1),
    }
    for name, other in others.items():
        assert abs(correlation(base, other)) < 4 / 20000**0.5, name


def test_seed_and_epoch_do_not_trade_places() -> None:
    index = torch.arange(100)
    assert not (image_keys(2, 5, index) == image_keys(5, 2, index)).any()


def test_keys_differ_between_all_images_and_epochs() -> None:
    keys = torch.cat([image_keys(0, epoch, torch.arange(5000)) for epoch in range(20)])
    assert len(keys.unique()) == 100_000


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [3, 3, 6]])
def test_the_split_into_batches_does_not_matter(sizes: list[int]) -> None:
    index = torch.randperm(1000)[:12]
    whole = uniform(image_keys(3, 1, index), 2, 9)
    parts = [uniform(image_keys(3, 1, part), 2, 9) for part in index.split(sizes)]
    assert torch.equal(torch.cat(parts), whole)


def test_asking_for_more_numbers_keeps_the_first() -> None:
    keys = image_keys(0, 0, torch.arange(4))
    assert torch.equal(uniform(keys, 1, 3), uniform(keys, 1, 10)[:, :3])


def test_torchs_own_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    first = uniform(image_keys(0, 0, torch.arange(4)), 1, 3)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(uniform(image_keys(0, 0, torch.arange(4)), 1, 3), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_row_numbers_of_any_integer_type_give_the_same_keys() -> None:
    assert torch.equal(
        image_keys(0, 0, torch.arange(9, dtype=torch.int32)), image_keys(0, 0, torch.arange(9))
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device to compare with")
def test_an_accelerator_draws_the_same_numbers() -> None:
    index = torch.arange(100)
    there = uniform(image_keys(9, 4, index.cuda()), 7, 33).cpu()
    assert torch.equal(there, uniform(image_keys(9, 4, index), 7, 33))
