"""Which encoder for which task, and how sure that is: sentences made from the main table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from contramask.report.intervals import Cell, difference_half_width
from contramask.report.tables import METHOD_NAMES, Measured

#: Confidence of a verdict -> what the word means, as the page explains it.
CONFIDENCE = {
    "settled": "The 95 % interval of the lead over the next best excludes zero.",
    "not settled": "The 95 % interval of the lead over the next best includes zero: "
    "more seeds could turn the order round.",
    "one seed": "The best or the next best was measured once. "
    "The lead is larger than what chance alone is expected to do, but not proven.",
    "within noise": "Measured once, and the lead is no larger than chance alone may make it.",
    "no comparison": "Nothing to compare with.",
}

#: Words of `CONFIDENCE` that let a winner be named.
CLEAR = ("settled", "one seed")

#: The winner's name where the best are level to the printed digit.
DRAW = "A draw"

RANDOM = METHOD_NAMES["random_init"]


@dataclass(frozen=True)
class Verdict:
    """What one task says: the winner, one or two sentences, and a word of `CONFIDENCE`."""

    aim: str
    column: str
    winner: str
    sentence: str
    confidence: str


def signed(value: float) -> str:
    """A difference in points with its sign, one decimal: +12.3, −0.4."""
    text = f"{abs(value):.1f}"
    return text if text == "0.0" else ("+" if value > 0 else "\N{MINUS SIGN}") + text


def noise_points(column: Measured, images: int, floor: float) -> float:
    """How many points between two single runs may be chance, at least `floor`.

    For accuracies: 95 % of the differences between two draws of `images` validation images
    (binomial, worst case at the column's values). Seeds add to it, hence the floor; overlaps and
    average precisions have no such formula and get the floor alone.
    """
    if images < 1 or not column.task.metric.endswith("top1"):
        return floor
    shares = [min(max(cell.mean / 100, 0.0), 1.0) for cell in column.cells.values()]
    spread = max(2 * share * (1 - share) / images for share in shares)
    return max(floor, float(100 * 1.96 * spread**0.5))


def judge(column: Measured, images: int, floor: float) -> Verdict:
    """The verdict of one column of the main table; `images` and `floor` as in `noise_points`."""
    ranked = sorted(column.cells.items(), key=lambda item: -item[1].mean)
    name, best = ranked[0]
    if len(ranked) == 1:
        text = f"Only {name} was measured ({best.mean:.1f} %): no comparison is possible."
        return Verdict(column.task.aim, column.task.title, name, text, "no comparison")
    noise = noise_points(column, images, floor)
    second_name, second = ranked[1]
    confidence = _confidence(best, second, noise)
    if f"{best.mean:.1f}" == f"{second.mean:.1f}":
        level = [item[0] for item in ranked if f"{item[1].mean:.1f}" == f"{best.mean:.1f}"]
        text = f"{_capital(join(level))} reach {best.mean:.1f} % alike."
        return Verdict(column.task.aim, column.task.title, DRAW, text, confidence)
    words = [_against_anchor(name, best, ranked)]
    if best.difference is None or not second_name.startswith(RANDOM):
        words.append(_against_second(best, second_name, second))
    if confidence == "not settled":
        words.append("The order of these two is not settled.")
    if min(len(best.values), len(second.values)) == 1:
        words.append(f"One seed: differences under about {noise:.1f} points may be noise.")
    return Verdict(column.task.aim, column.task.title, name, " ".join(words), confidence)


def _confidence(best: Cell, second: Cell, noise: float) -> str:
    lead = best.mean - second.mean
    margin = difference_half_width(best.values, second.values)
    if margin is None:
        return "one seed" if lead > noise else "within noise"
    return "settled" if lead > margin else "not settled"


def _against_anchor(name: str, best: Cell, ranked: Sequence[tuple[str, Cell]]) -> str:
    seeds = count(len(best.values), "seed")
    if best.difference is None:
        if name.startswith(RANDOM):
            return f"{best.mean:.1f} %, {seeds}: no pre-training helped here."
        return (
            f"{best.mean:.1f} %, {seeds}. {RANDOM.capitalize()} was not measured, "
            "so the gain over it is unknown."
        )
    gain = f"{best.mean:.1f} %: {signed(best.difference)} points over {RANDOM}"
    margin = best.margin
    if margin is None:
        return f"{gain}." if len(best.values) == 1 else f"{gain}, {seeds}."
    low, high = signed(best.difference - margin), signed(best.difference + margin)
    return f"{gain} (95\N{NO-BREAK SPACE}% interval {low} to {high}), {seeds}."


def _against_second(best: Cell, name: str, second: Cell) -> str:
    return f"{_capital(name)} follows {best.mean - second.mean:.1f} points behind."


def headline(verdicts: Sequence[Verdict]) -> str:
    """The whole report in one or two sentences; honest where there is nothing to say."""
    if not verdicts:
        return "Nothing was measured yet, so there is no verdict."
    ranked = [verdict for verdict in verdicts if verdict.confidence != "no comparison"]
    if not ranked:
        return "Only one encoder was measured: no comparison is possible."
    total = count(len(ranked), "measured task")
    wins = Counter(verdict.winner for verdict in ranked if verdict.winner != DRAW)
    if not any(verdict.confidence in CLEAR for verdict in ranked):
        text = f"Nothing is decided: in none of {total} is a lead larger than chance may make it."
        ahead = [name for name, number in wins.items() if number == max(wins.values())]
        return text + (f" Most often ahead: {join(ahead)}." if ahead else "")
    return f"{_winner_of(wins, total)} {_certainty(ranked)}"


def _winner_of(wins: Counter[str], total: str) -> str:
    most = max(wins.values())
    leaders = [name for name, number in wins.items() if number == most]
    if len(leaders) > 1:
        return f"No single winner: {join(leaders)} are each best in {most} of {total}."
    if leaders[0].startswith(RANDOM):
        return f"{_capital(leaders[0])} is best in {most} of {total}: pre-training did not pay."
    return f"{leaders[0]} is the encoder to take: best in {most} of {total}."


def _certainty(ranked: Sequence[Verdict]) -> str:
    sure = sum(verdict.confidence == "settled" for verdict in ranked)
    if sure == len(ranked):
        return "Every lead exceeds the spread between seeds."
    if sure:
        return f"In {sure} of {len(ranked)} the lead exceeds the spread between seeds."
    return "Measured with one seed, so read it as a hint, not as proof."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def count(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`, `12,000 images`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def join(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
