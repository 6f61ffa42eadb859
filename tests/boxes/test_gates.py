"""Which box sets are refused, which only warned about, and what the text says."""

from typing import Any

import pandas as pd
import pytest

from contramask.boxes.gates import GateConfig, alarms, statistics, warnings


def table(areas: list[float], fallbacks: int = 0) -> pd.DataFrame:
    count = len(areas)
    is_fallback = [index < fallbacks for index in range(count)]
    return pd.DataFrame(
        {
            "box_area": areas,
            "score": 0.5,
            "binds": 0.2,
            "is_fallback": is_fallback,
            "fallback_reason": ["constant_map" if each else "" for each in is_fallback],
        }
    )


def quality(found: dict[str, float], crops: tuple[float, float]) -> dict[str, Any]:
    baselines = {name: {"iou": 0.3, "corloc": 0.2} for name in ("shuffled", "full", "mean_box")}
    plain, around = crops
    pairs = {"plain": {"pair_miss": plain}, "found": {"pair_miss": around}}
    return {"boxes": {"found": found, **baselines}, "crops": {"off_centre": pairs}}


GOOD = {"iou": 0.6, "corloc": 0.7, "coverage": 0.9}


def test_good_boxes_pass_in_silence() -> None:
    stats = statistics(table([0.2, 0.3, 0.4, 0.5]))
    assert alarms(stats, GateConfig()) == []
    assert warnings(stats, quality(GOOD, (0.10, 0.05)), GateConfig()) == []
    assert warnings(stats, None, GateConfig()) == []


def test_mostly_fallbacks_are_refused_and_the_text_says_why_and_what_to_do() -> None:
    [text] = alarms(statistics(table([1.0] * 6 + [0.3] * 4, fallbacks=6)), GateConfig())
    assert "60% of the images" in text
    assert "constant_map 6" in text
    assert "crop_boxes.method full" in text


def test_boxes_of_nearly_the_whole_image_are_refused() -> None:
    [text] = alarms(statistics(table([0.95] * 19 + [0.3])), GateConfig())
    assert "95% of the boxes cover 90%" in text


def test_gates_are_strict_bounds_and_can_be_moved() -> None:
    stats = statistics(table([1.0] * 5 + [0.3] * 5, fallbacks=5))
    assert alarms(stats, GateConfig()) == []
    assert len(alarms(stats, GateConfig(max_fallback=0.4))) == 1


def test_statistics() -> None:
    stats = statistics(table([1.0, 0.2, 0.4, 0.92], fallbacks=1))
    assert stats["fallback_share"] == 0.25
    assert stats["fallback_reasons"] == {"constant_map": 1}
    assert stats["large_share"] == 0.5
    assert stats["area_quantiles"]["0.5"] == pytest.approx(0.66)
    assert stats["binds_mean"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("found", "crops", "text"),
    [
        ({**GOOD, "coverage": 0.7}, (0.1, 0.05), "boxes hold 70%"),
        ({**GOOD, "corloc": 0.22}, (0.1, 0.05), "dealt to other images"),
        ({**GOOD, "iou": 0.25}, (0.1, 0.05), "shuffled 0.30, full 0.30"),
        (GOOD, (0.10, 0.09), "harmless but help little"),
    ],
)
def test_each_soft_gate_warns(
    found: dict[str, float], crops: tuple[float, float], text: str
) -> None:
    stats = statistics(table([0.2, 0.3, 0.4]))
    [warning] = warnings(stats, quality(found, crops), GateConfig())
    assert text in warning


def test_soft_gates_without_ground_truth() -> None:
    stats = statistics(table([1.0, 1.0, 1.0, 0.95, 0.5], fallbacks=2))
    texts = warnings(stats, None, GateConfig())
    assert len(texts) == 3
    assert "40% of the images" in texts[0]
    assert "median box covers 100%" in texts[2]
