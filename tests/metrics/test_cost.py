"""Hours and money: the expected and the spent, worked by hand."""

from __future__ import annotations

import pytest

from pipeline.metrics.cost import Expense, Terms, expected, spent, together


def test_expected_time_and_cost_are_those_of_engines_that_never_wait() -> None:
    # 100 h at 50 x real time: 2 engine hours, half an hour with four workers, on machines of 12 USD an hour.
    found = expected(360_000, Terms(50.0, usd_per_hour=12.0), engine_workers=4)
    assert found == Expense(audio_h=100.0, engine_h=2.0, wall_h=0.5, usd=6.0, usd_per_audio_h=0.06)


def test_every_channel_costs_and_an_hour_of_a_call_stays_an_hour() -> None:
    found = expected(360_000, Terms(50.0, usd_per_hour=12.0), 4, more_channels_s=360_000)
    assert found == Expense(audio_h=100.0, engine_h=4.0, wall_h=1.0, usd=12.0, usd_per_audio_h=0.12)


def test_without_a_price_there_is_no_cost_but_the_hours() -> None:
    found = expected(3600, Terms(10.0), engine_workers=1)
    assert (found.engine_h, found.usd, found.usd_per_audio_h) == (0.1, None, None)


def session(wall_s: float, audio_s: float, workers: int, price: float | None) -> dict[str, float | None]:
    return {"wall_s": wall_s, "audio_s": audio_s, "engine_workers": workers, "usd_per_hour": price}


def test_spent_is_wall_time_at_the_price_of_each_session() -> None:
    # Half an hour at 4 USD with two workers, then an hour at 1 USD with one.
    found = spent([session(1800, 36_000, 2, 4.0), session(3600, 18_000, 1, 1.0)])
    assert (found.audio_h, found.wall_h, found.engine_h, found.usd) == (15.0, 1.5, 2.0, 3.0)
    assert found.usd_per_audio_h == pytest.approx(0.2)


def test_a_session_without_a_price_leaves_the_sum_unknown() -> None:
    old = session(10, 10, 1, 0)
    del old["usd_per_hour"]
    assert spent([session(10, 10, 1, 4.0), old]).usd is None
    assert spent([]).usd is None


def test_parts_add_up() -> None:
    terms = Terms(10.0, usd_per_hour=2.0)
    parts = [expected(audio_s, terms, 2) for audio_s in (36_000, 72_000)]
    assert together(parts) == expected(108_000, terms, 2)
    assert together([parts[0], expected(1, Terms(10.0), 1)]).usd is None
