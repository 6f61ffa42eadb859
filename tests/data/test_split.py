import pytest

from contramask.data.split import (
    balanced_choice,
    chosen_rows,
    name_share,
    settle_splits,
    split_by_class,
    split_by_name,
    split_word,
)

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


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *(("train", "train"), ("Training", "train"), ("train2017", "train"), ("val", "val")),
        *(("valid", "val"), ("validation", "val"), ("dev", "val"), ("trainannot", "train")),
        *(("test_images", "test"), ("testing", "test"), ("trains", None), ("values", None)),
        *((None, None), (3, None), ("latest", None)),
    ],
)
def test_words_for_splits(text: object, word: str | None) -> None:
    assert split_word(text) == word


def test_splits_the_source_gives_are_kept() -> None:
    given = ["train", "val", "test", None]
    assert settle_splits(given, NAMES[:4], 0.1)[0] == ["train", "val", None, None]
    splits, fact = settle_splits(["train", "test", None], NAMES[:3], 0.1)
    assert splits == ["train", "val", None]
    assert "the test part serves as val" in fact


def test_otherwise_val_is_drawn_from_train_or_all() -> None:
    given = ["train"] * 900 + [None] * 100
    splits, fact = settle_splits(given, NAMES, 0.1)
    assert splits[900:] == [None] * 100
    assert splits[:900] == split_by_name(NAMES[:900], 0.1)
    assert "the train part" in fact
    assert settle_splits(["val"] * 1000, NAMES, 0.1)[0] == split_by_name(NAMES, 0.1)
    assert settle_splits([None] * 1000, NAMES, 0)[0] == ["train"] * 1000
    assert settle_splits([], [], 0.1)[0] == []


def test_limits_by_split() -> None:
    splits = ["train", "val", None, "train", "val", "train"]
    labels = [0, 0, 0, 0, 0, 1]
    rows = chosen_rows(NAMES[:6], splits, labels, (2, None))
    assert {labels[row] for row in rows if splits[row] == "train"} == {0, 1}
    assert [row for row in rows if splits[row] == "val"] == [1, 4]
    assert chosen_rows(NAMES[:6], splits, labels, (None, 0)) == [0, 3, 5]


def test_each_class_gives_its_share_to_val() -> None:
    strata = ["common"] * 900 + ["rare"] * 95 + ["pair"] * 2 + ["lone"] * 3
    strata[-1], strata[-2] = "single", "other"
    splits = split_by_class(NAMES, strata, 0.1)
    val = [kind for kind, split in zip(strata, splits, strict=True) if split == "val"]
    counts = {kind: val.count(kind) for kind in set(strata)}
    assert counts == {"common": 90, "rare": 10, "pair": 1, "lone": 0, "single": 0, "other": 0}
    assert split_by_class(NAMES[::-1], strata[::-1], 0.1) == splits[::-1]
    assert set(split_by_class(NAMES, strata, 0)) == {"train"}
    assert settle_splits([None] * 1000, NAMES, 0.1, strata)[0] == splits
    one_class = settle_splits([None] * 1000, NAMES, 0.1, [7] * 1000)
    assert one_class == settle_splits([None] * 1000, NAMES, 0.1)
    assert "each class alike" in settle_splits([None] * 1000, NAMES, 0.1, strata)[1]
