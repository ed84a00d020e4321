"""The interval: repeatable, the same in any cut of the rows, and of the right width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.bootstrap import _POISSON, Bootstrap, bootstrap_interval, mean_interval


def corpus(rows: int, seed: int, rate: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Errors and lengths of recordings that differ: each has an error rate of its own round `rate`."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 60, rows)
    return random.binomial(lengths, random.beta(2, 2 / rate - 2, rows)), lengths


def test_weights_are_poisson_of_mean_one() -> None:
    weights = _POISSON.astype(float)
    assert weights.mean() == pytest.approx(1, abs=1e-3)
    assert weights.var() == pytest.approx(1, abs=1e-2)
    assert (weights == 0).mean() == pytest.approx(np.exp(-1), abs=1e-4)


def test_the_same_rows_give_the_same_interval() -> None:
    assert bootstrap_interval(*corpus(300, 1)) == bootstrap_interval(*corpus(300, 1))
    assert bootstrap_interval(*corpus(300, 1)) != bootstrap_interval(*corpus(300, 2))


@given(st.lists(st.integers(0, 400), max_size=6))
def test_the_interval_does_not_depend_on_how_the_rows_came(cuts: list[int]) -> None:
    errors, lengths = corpus(400, 3)
    bootstrap = Bootstrap()
    for some_errors, some_lengths in zip(np.split(errors, sorted(cuts)), np.split(lengths, sorted(cuts)), strict=True):
        bootstrap.add(some_errors, some_lengths)
    assert bootstrap.interval() == pytest.approx(bootstrap_interval(errors, lengths), rel=1e-12)


def test_it_agrees_with_resampling_done_the_long_way() -> None:
    errors, lengths = corpus(400, 5)
    random = np.random.default_rng(0)
    drawn = random.integers(0, 400, (4000, 400))
    low, high = np.quantile(errors[drawn].sum(1) / lengths[drawn].sum(1), [0.025, 0.975])
    found_low, found_high = bootstrap_interval(errors, lengths) or (0, 0)
    assert found_high - found_low == pytest.approx(high - low, rel=0.1)
    assert found_low == pytest.approx(low, rel=0.03)


def test_about_95_of_100_intervals_hold_the_true_rate() -> None:
    held = 0
    for seed in range(200):
        low, high = bootstrap_interval(*corpus(250, seed)) or (1, 0)
        held += low <= 0.1 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_without_a_reference_there_is_no_interval() -> None:
    nothing = np.zeros(0, np.int64)
    assert bootstrap_interval(nothing, nothing) is None
    assert bootstrap_interval(np.array([3, 1]), np.array([0, 0])) is None


def test_one_recording_tells_nothing_of_its_spread() -> None:
    assert bootstrap_interval(np.array([1]), np.array([4])) is None
    assert bootstrap_interval(np.array([1, 0]), np.array([4, 0])) is None


def test_the_mean_of_one_rate_has_the_interval_of_that_rate() -> None:
    errors, lengths = np.array([1, 0, 3, 2]), np.array([10, 5, 12, 9])
    one = Bootstrap()
    one.add(errors, lengths)
    assert mean_interval([one]) == pytest.approx(one.interval())


def test_the_mean_of_many_rates_is_known_better_than_each() -> None:
    random = np.random.default_rng(1)
    many = [Bootstrap(seed=seed) for seed in range(9)]
    for bootstrap in many:
        bootstrap.add(random.integers(0, 4, 60), np.full(60, 10))
    low, high = mean_interval(many) or (0.0, 0.0)
    widths = [high - low for low, high in filter(None, (bootstrap.interval() for bootstrap in many))]
    # The mean of nine independent rates: a third as wide.
    assert high - low == pytest.approx(np.mean(widths) / 3, rel=0.15)


def test_a_rate_without_a_reference_makes_the_mean_unknown() -> None:
    known, empty = Bootstrap(), Bootstrap(seed=1)
    known.add(np.array([1]), np.array([5]))
    empty.add(np.array([2]), np.array([0]))
    assert empty.interval() is None
    assert mean_interval([known, empty]) is None
