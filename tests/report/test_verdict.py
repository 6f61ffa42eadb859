import pytest

from contramask.report.intervals import Cell
from contramask.report.tables import TASKS, Measured
from contramask.report.verdict import (
    count,
    headline,
    join,
    judge,
    noise_points,
    signed,
)

KNN, MIOU = (next(t for t in TASKS if t.metric == m) for m in ("knn_top1", "miou"))
ANCHOR = (30.0, 31.0, 30.5)


def column(task=KNN, **cells):
    return Measured(task, "val", "knn", "mean", cells)


def three(best, second):
    """Three encoders with an anchor."""
    return column(
        **{"random init": Cell(ANCHOR), "MAE": Cell(second, ANCHOR), "CMAE": Cell(best, ANCHOR)}
    )


def test_the_highest_mean_wins_and_a_clear_lead_is_settled():
    found = judge(three((60.0, 61.0, 60.4), (40.0, 41.0, 40.2)), 0, 2.0)
    assert (found.winner, found.confidence) == ("CMAE", "settled")
    assert "+30.0 points over random init" in found.sentence
    assert "3 seeds" in found.sentence
    assert "MAE follows 20.1 points behind" in found.sentence


def test_a_lead_inside_the_interval_is_not_settled():
    found = judge(three((60.0, 40.0, 50.0), (48.0, 41.0, 49.0)), 0, 2.0)
    assert found.confidence == "not settled"
    assert "not settled" in found.sentence


def test_one_seed_is_admitted_with_the_points_that_may_be_noise():
    found = judge(
        column(**{"random init": Cell((30.0,)), "MAE": Cell((50.0,), (30.0,))}), 2000, 2.0
    )
    assert found.confidence == "one seed"
    assert "One seed: differences under about 3.1 points may be noise." in found.sentence
    assert "interval" not in found.sentence


def test_one_seed_with_a_small_lead_is_within_noise():
    cells = {"random init": Cell((50.0,)), "MAE": Cell((51.0,), (50.0,))}
    assert judge(column(**cells), 0, 2.0).confidence == "within noise"


def test_noise_follows_the_binomial_for_accuracies_only():
    cells = {"MAE": Cell((50.0,))}
    expected = 196 * (2 * 0.25 / 1000) ** 0.5
    assert noise_points(column(**cells), 1000, 2.0) == pytest.approx(expected)
    assert noise_points(column(**cells), 0, 2.0) == 2.0
    assert noise_points(column(MIOU, **cells), 1000, 2.0) == 2.0


def test_random_init_may_win():
    cells = {"random init": Cell((50.0,)), "MAE": Cell((45.0,), (50.0,))}
    found = judge(column(**cells), 0, 2.0)
    assert (found.winner, found.confidence) == ("random init", "one seed")
    assert "no pre-training helped here" in found.sentence
    assert "pre-training did not pay" in headline([found])


def test_one_encoder_cannot_be_compared():
    found = judge(column(MAE=Cell((50.0,))), 0, 2.0)
    assert found.confidence == "no comparison"
    assert "no comparison is possible" in found.sentence
    assert "no comparison is possible" in headline([found])


def test_without_an_anchor_the_gain_is_unknown():
    found = judge(column(MAE=Cell((50.0, 51.0)), CMAE=Cell((40.0, 41.0))), 0, 2.0)
    assert "Random init was not measured, so the gain over it is unknown" in found.sentence
    assert "CMAE follows 10.0 points behind" in found.sentence


def test_the_headline_names_who_wins_most_and_how_sure_that_is():
    clear = judge(three((60.0, 61.0, 60.4), (40.0, 41.0, 40.2)), 0, 2.0)
    open_ = judge(three((60.0, 40.0, 50.0), (48.0, 41.0, 49.0)), 0, 2.0)
    assert headline([clear]).endswith("Every lead exceeds the spread between seeds.")
    assert "CMAE is the encoder to take: best in 2 of 2 measured tasks." in headline([clear, open_])
    assert "In 1 of 2 the lead" in headline([clear, open_])
    assert headline([open_]) == (
        "Nothing is decided: in none of 1 measured task is a lead larger than chance may make it. "
        "Most often ahead: CMAE."
    )


def test_a_draw_has_no_single_winner():
    first = judge(column(MAE=Cell((50.0,)), CMAE=Cell((40.0,))), 0, 2.0)
    second = judge(column(MAE=Cell((40.0,)), CMAE=Cell((50.0,))), 0, 2.0)
    text = headline([first, second])
    assert text.startswith("No single winner: MAE and CMAE are each best in 1 of 2")
    assert "one seed" in text


def test_level_encoders_are_a_draw_and_win_nothing():
    cells = {"random init": Cell((50.01,)), "MAE": Cell((50.04,), (50.01,)), "CMAE": Cell((9.0,))}
    found = judge(column(**cells), 0, 2.0)
    assert (found.winner, found.confidence) == ("A draw", "within noise")
    assert found.sentence == "MAE and random init reach 50.0 % alike."
    assert headline([found]).endswith("larger than chance may make it.")


def test_nothing_measured_has_no_verdict():
    assert headline([]) == "Nothing was measured yet, so there is no verdict."


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.34, "+12.3"), (-0.4, "\N{MINUS SIGN}0.4"), (0.02, "0.0"), (-0.01, "0.0")],
)
def test_differences_carry_their_sign(value, text):
    assert signed(value) == text


def test_words_for_counts_and_lists():
    assert (count(1, "seed"), count(12000, "image")) == ("1 seed", "12,000 images")
    assert (join(["a"]), join(["a", "b", "c"])) == ("a", "a, b and c")
