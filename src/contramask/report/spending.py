"""What each pre-training has spent: images, compute, time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from contramask.report.sections import Table
from contramask.report.tables import Stage

#: Unit -> GFLOP in it.
UNITS = {"GFLOP": 1.0, "TFLOP": 1e3, "PFLOP": 1e6, "EFLOP": 1e9, "ZFLOP": 1e12}
UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True)
class Cost:
    """What one variant's pre-training took, means over its seeds; None where it is not known."""

    variant: str
    epochs: float | None
    images: float | None  # seen in all, repeats counted
    gflop: float | None  # an image, forward and backward
    seconds: float | None
    energy_kwh: float | None
    tokenizer: float | None = 0.0  # GFLOP of the training of the image tokens it predicts

    @property
    def own(self) -> float | None:
        """GFLOP of the whole pre-training, without the tokenizer."""
        return None if self.gflop is None or self.images is None else self.gflop * self.images

    @property
    def total(self) -> float | None:
        """GFLOP of the whole pre-training and, where it is known, of its tokenizer."""
        return None if self.own is None else self.own + (self.tokenizer or 0.0)

    def affordable(self, compute: float) -> float | None:
        """For how many epochs so many GFLOP would do; the tokenizer is trained once."""
        if not self.own or self.epochs is None:
            return None
        return self.epochs * (compute - (self.tokenizer or 0.0)) / self.own


def pretraining_costs(
    rows: pd.DataFrame,
    stages: Sequence[Stage],
    variants: Mapping[str, str],
    order: Sequence[str],
) -> list[Cost]:
    """The cost of every variant that was pre-trained, in the order of the tables.

    From the rows gflop_per_image and seconds, the plan's steps and batch size, what the tokenizer
    took, and, where a stage states them, energy_kwh or power_watts.
    """
    own = rows[rows["protocol"] == "pretrain"]
    tokens = {s.experiment: s.output.facts for s in stages if s.task == "tokenizer"}
    facts: dict[str, list[Mapping[str, object]]] = {}
    for stage in stages:
        if stage.task == "pretrain" and stage.skipped is None:
            made = {"tokens": _tokens(stage.output.facts, tokens.get(stage.experiment, {}))}
            facts.setdefault(variants[stage.experiment], []).append(stage.output.facts | made)
    costs = []
    for variant in (name for name in order if name in facts):
        measured = own[own["variant"] == variant].groupby("metric")["value"].mean()
        plans = [_mapping(fact.get("plan")) for fact in facts[variant]]
        costs.append(
            Cost(
                variant=variant,
                epochs=_mean([plan.get("epochs") for plan in plans]),
                images=_mean([_images(plan) for plan in plans]),
                gflop=_mean([measured.get("gflop_per_image")]),
                seconds=_mean([measured.get("seconds")]),
                energy_kwh=_mean([_energy(fact) for fact in facts[variant]]),
                tokenizer=_mean([fact["tokens"] for fact in facts[variant]]),
            )
        )
    return costs


def _tokens(facts: Mapping[str, object], trained: Mapping[str, object]) -> float | None:
    """GFLOP of the tokenizer of a pre-training, 0 without one, None if nobody noted them.

    `trained` are the facts of the tokenizer's own stage, from which older results are completed.
    """
    if "tokenizer" not in _mapping(facts.get("ingredients")):
        return 0.0
    stated = facts.get("tokenizer_tflop")
    if isinstance(stated, int | float):
        return 1e3 * stated
    plan = _mapping(trained.get("plan"))
    images, each = _images(plan), plan.get("GFLOP per image")
    return images * each if images is not None and isinstance(each, int | float) else None


def _images(plan: Mapping[str, object]) -> float | None:
    """Images of all steps; a last batch that is not full is left out of every epoch."""
    steps, size = plan.get("steps"), plan.get("batch size")
    if isinstance(steps, int | float) and isinstance(size, int | float):
        return float(steps * size)
    return None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _mean(values: Sequence[object]) -> float | None:
    known = [float(v) for v in values if isinstance(v, int | float) and np.isfinite(v)]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _energy(facts: Mapping[str, object]) -> float | None:
    stated, watts, seconds = (facts.get(k) for k in ("energy_kwh", "power_watts", "seconds"))
    if isinstance(stated, int | float):
        return float(stated)
    if isinstance(watts, int | float) and isinstance(seconds, int | float):
        return watts * seconds / 3.6e6
    return None


def unit_of(totals: Sequence[float]) -> str:
    """The largest unit in which the largest of these GFLOP is at least 1."""
    largest = max(totals, default=0.0)
    return [name for name, size in UNITS.items() if name == "GFLOP" or largest >= size][-1]


def cost_table(costs: Sequence[Cost]) -> Table | None:
    """What each variant has spent, and for how many epochs the dearest one's compute would do."""
    totals = [cost.total for cost in costs if cost.total]
    if not totals:
        return None
    unit, most = unit_of(totals), max(totals)
    dearest = next(cost.variant for cost in costs if cost.total == most)
    size = UNITS[unit]
    has_tokens = any(cost.tokenizer != 0 for cost in costs)
    has_energy = any(cost.energy_kwh is not None for cost in costs)
    heads = ["", "Epochs", "Images seen", "GFLOP per image", f"{unit} in all"]
    heads += ["of it for the tokenizer"] if has_tokens else []
    heads += ["Seconds", f"Epochs for the compute of {dearest}"]
    heads += ["kWh, estimated"] if has_energy else []
    lines = []
    for cost in costs:
        words = [_number(cost.epochs, 0), _number(cost.images, 0), _number(cost.gflop, 3)]
        words += [_number(cost.total, 1, size)]
        words += [_number(cost.tokenizer, 1, size)] if has_tokens else []
        words += [_number(cost.seconds, 0), _number(cost.affordable(most), 0)]
        words += [_number(cost.energy_kwh, 3)] if has_energy else []
        lines.append((cost.variant, *words))
    return Table("What pre-training has spent (means over seeds)", tuple(heads), tuple(lines))


def _number(value: float | None, digits: int, unit: float = 1.0) -> str:
    return UNKNOWN if value is None else f"{value / unit:,.{digits}f}"
