import pytest

from ultraflash.training.evaluation.intervals import mean, share


def test_wilson_interval_agrees_with_published_values() -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion (1998), table I, method 3.
    measure = share(81, 263)
    assert (measure.low, measure.high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    none = share(0, 20)
    assert (none.low, none.high) == (0.0, pytest.approx(0.1611, abs=1e-4))


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no share"):
        share(0, 0)


def test_bootstrap_interval_holds_the_mean_and_narrows_with_more_values() -> None:
    few, many = mean([0.0, 1.0] * 5), mean([0.0, 1.0] * 500)
    assert few.low <= few.value == 0.5 <= few.high
    assert many.high - many.low < (few.high - few.low) / 5
    assert mean([0.3] * 4).low == pytest.approx(0.3)
