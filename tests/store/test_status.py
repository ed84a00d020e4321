"""`quarry status`: the pace of parts, and a look at a run that stays cheap however many parts there are."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from made_runs import made_run, part_bytes, publish_all

from pipeline.existing import ExistingRun
from pipeline.status import look, pace_of, status_text
from pipeline.store.ledger import Session
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import part_key, publish_part

NOW_S = 1_000_000.0


def ages(*ages_s: float) -> np.ndarray:
    return NOW_S - np.array(ages_s)


def test_the_pace_is_that_of_the_last_ten_minutes() -> None:
    every_minute = ages(*range(0, 36_000, 60))
    slow_before = np.where(every_minute > NOW_S - 590, 6_000.0, 60.0)
    pace = pace_of(every_minute, slow_before, NOW_S)
    assert pace.rtfx == pytest.approx(100, rel=0.15)
    assert (pace.last_part_age_s, pace.over_s, pace.is_going) == (0, 600, True)


def test_what_the_first_part_holds_was_worked_on_before_it() -> None:
    pace = pace_of(ages(100, 0), np.array([9_999.0, 300.0]), NOW_S)
    assert pace.rtfx == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("ages_s", "is_going"),
    [((110, 120, 130), True), ((200, 210, 220), False), ((900, 1_100, 1_300), True), ((1_100, 1_300, 1_500), False)],
)
def test_a_run_that_keeps_quiet_longer_than_it_used_to_may_have_stopped(
    ages_s: tuple[float, ...], is_going: bool
) -> None:
    assert pace_of(ages(*ages_s), np.full(3, 60.0), NOW_S).is_going == is_going


def test_without_parts_or_times_nothing_is_made_up() -> None:
    for written_s in (np.zeros(0), np.full(3, np.nan)):
        pace = pace_of(written_s, np.full(len(written_s), 60.0), NOW_S)
        assert (pace.last_part_age_s, pace.rtfx, pace.is_going) == (None, None, False)
    only = pace_of(ages(5), np.array([60.0]), NOW_S)
    assert (only.last_part_age_s, only.rtfx) == (5, None)


def test_a_look_tells_what_is_there(tmp_path: Path) -> None:
    ledger = made_run(tmp_path, {f"r{number}": 50.0 for number in range(6)})
    run = ExistingRun("made-0", ledger, "made-0", None)
    nothing = look(run)
    assert (nothing.shards_done, nothing.exit_code, nothing.pace.last_part_age_s) == (0, 3, None)
    assert status_text(nothing) == "made-0: 0 of 6 shards done, 0.00 of 0.08 h."
    shards = list(ledger.shards())
    for shard in shards[:3]:
        publish_part(ledger.store, shard.shard_id, part_bytes(shard, failed=["r1"]))
    ledger.add_session(Session("2026-01-01T00:00:00+00:00", 1.0, 20.0, 150.0, 3, 1, "box", {}))
    half = look(run)
    assert (half.shards_done, half.audio_done_s, half.audio_s) == (3, 150, 300)
    assert half.failure_codes == {"not_audio": 1}
    assert half.pace.is_going
    text = status_text(half)
    assert "last part" in text
    assert "failed or partial rows: not_audio 1" in text
    assert "3 shards in 20 s, 7.5× real time" in text
    publish_all(ledger)
    whole = look(run)
    assert (whole.exit_code, whole.eta_s) == (0, None)
    assert "last part" not in status_text(whole)


@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_many_parts_are_listed_and_not_opened(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = made_run(tmp_path, {f"r{number}": 59.0 for number in range(count)})
    for shard_id in ledger.entries()["shard_id"].to_pylist()[: count // 2]:
        path = tmp_path / part_key(shard_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # no Parquet: whoever opened it would fail
    listings: list[str] = []
    listing = ObjectStore.list

    def noting(self: ObjectStore, prefix: str, deep: bool = True):  # type: ignore[no-untyped-def]
        listings.append(prefix)
        return listing(self, prefix, deep)

    monkeypatch.setattr(ObjectStore, "list", noting)
    began = time.process_time()
    found = look(ExistingRun("made-0", ledger, "made-0", None))
    assert time.process_time() - began < 1 + count / 10_000
    assert (found.shards_done, found.shards) == (count // 2, count)
    assert found.failure_codes is None
    assert listings.count("parts/") == 1
