import pytest

from contramask.data.split import balanced_choice, name_share, split_by_name

NAMES = [f"folder/{i}.png" for i in range(1000)]


def test_split_depends_on_names_alone() -> None:
    splits = split_by_name(NAMES, 0.1)
    assert 60 < splits.count("val") < 140
    assert split_by_name(NAMES[::-1], 0.1) == splits[::-1]
    assert split_by_name(NAMES[:500], 0.1) == splits[:500]
    assert name_share("a") == pytest.approx(0xCA978112 / 2**32)  # sha256("a")


def test_no_split_is_empty_unless_asked() -> None:
    assert sorted(split_by_name(["a", "b"], 0.01)) == ["train", "val"]
    assert sorted(split_by_name(["a", "b"], 0.99)) == ["train", "val"]
    assert split_by_name(["a"], 0.5) == ["train"]
    assert split_by_name(["a", "b"], 0.0) == ["train", "train"]
    assert split_by_name([], 0.1) == []


def test_limited_choice_is_balanced_and_ordered() -> None:
    labels = [0] * 900 + [1] * 60 + [2] * 40
    chosen = balanced_choice(NAMES, labels, 90)
    assert chosen == sorted(chosen)
    assert [sum(labels[i] == label for i in chosen) for label in range(3)] == [30, 30, 30]
    assert set(balanced_choice(NAMES, labels, 30)) < set(chosen)
    assert balanced_choice(NAMES, labels, None) == list(range(1000))
    assert balanced_choice(NAMES, labels, 0) == []
