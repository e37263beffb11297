import json
from pathlib import Path

from ultraflash.training.evaluation.bars import BARS, number_at, regressions, value_of

RESULTS = Path(__file__).parents[3] / "benchmarks/results"


def measures(adherence: float, low: float, high: float, realism: float) -> dict[str, object]:
    return {
        "adherence": {"all": {"value": adherence, "low": low, "high": high, "count": 50}},
        "realism_ratio": realism,
    }


def test_a_value_is_found_with_or_without_an_interval() -> None:
    found = measures(0.8, 0.7, 0.9, 2.0)
    assert value_of(number_at(found, ("adherence", "all"))) == 0.8
    assert value_of(number_at(found, ("realism_ratio",))) == 2.0
    assert value_of(number_at(found, ("adherence", "missing"))) is None


def test_only_what_is_surely_worse_counts_as_a_regression() -> None:
    before = measures(0.8, 0.7, 0.9, 4.0)
    assert list(regressions(before, measures(0.7, 0.6, 0.81, 4.0))) == []
    assert [line.split(":")[0] for line in regressions(before, measures(0.5, 0.4, 0.6, 5.0))] == [
        "adherence, seen pairs, all attributes",
        "Frechet distance, as a multiple of rendered to rendered",
    ]


def test_falling_back_to_what_the_bar_asks_is_no_regression() -> None:
    assert list(regressions(measures(1.0, 1.0, 1.0, 1.0), measures(0.92, 0.9, 0.95, 2.9))) == []


def test_every_bar_is_found_in_the_evaluation_of_what_ships() -> None:
    newest = max(RESULTS.glob("mini-v[0-9]*[0-9]-evaluation.json"), key=lambda path: path.name)
    found = json.loads(newest.read_text())["measures"]
    assert [bar.title for bar in BARS if value_of(number_at(found, bar.path)) is None] == []


def test_every_bar_asks_for_something() -> None:
    assert all(bar.least is not None or bar.most is not None for bar in BARS)
    assert len({bar.title for bar in BARS}) == len(BARS)
