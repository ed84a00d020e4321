"""Recordings and hours by language and length, in blocks of any size."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import PlanConfig
from pipeline.metrics import shares
from pipeline.metrics.shares import Share, add_shares, duration_buckets
from pipeline.plan import PlanTotals, add_totals, plan_table, totals
from pipeline.source.rows import MANIFEST_SCHEMA

CONFIG = PlanConfig(window_s=60, shard_s=120, overlap_s=4)


def rows(recordings: list[tuple[float | None, str | None]]) -> pa.Table:
    made = [
        {"id": f"r{n:04d}", "uri": f"/{n}", "offset_s": 0.0, "duration_s": s, "language": language, "extra": []}
        for n, (s, language) in enumerate(recordings)
    ]
    return pa.Table.from_pylist([{**row, "keywords": []} for row in made], schema=MANIFEST_SCHEMA)


def test_windows_of_a_recording_count_once_and_with_all_their_seconds() -> None:
    sums = totals(plan_table(rows([(100.0, "en"), (5.0, "en"), (3700.0, "de"), (None, None)]), CONFIG))
    assert sums.by_language["en"] == {"recordings": 2, "audio_s": pytest.approx(105.0), "more_channels_s": 0.0}
    assert sums.by_language["de"] == {"recordings": 1, "audio_s": pytest.approx(3700.0), "more_channels_s": 0.0}
    assert sums.by_language["unknown"] == {"recordings": 1, "audio_s": 0.0, "more_channels_s": 0.0}
    by_duration = {name: (share["recordings"], round(share["audio_s"])) for name, share in sums.by_duration.items()}
    assert by_duration == {"under 10 s": (1, 5), "30 s to 2 min": (1, 100), "1 to 4 h": (1, 3700), "unknown": (1, 0)}


def test_a_plan_of_before_split_recordings_were_weighed_can_grow() -> None:
    before: Share = {"recordings": 1, "audio_s": 9.0}  # type: ignore[typeddict-item]
    grown = add_shares({"en": before}, {"en": Share(recordings=1, audio_s=4.0, more_channels_s=4.0)})
    assert grown == {"en": {"recordings": 2, "audio_s": 13.0, "more_channels_s": 4.0}}


def test_a_bucket_has_its_lower_edge_and_nothing_that_is_no_length() -> None:
    found = duration_buckets(pa.array([0.0, 9.99, 10.0, 30.0, 14_400.0, None, -1.0, float("nan")]))
    assert found.to_pylist() == [
        *("under 10 s", "under 10 s", "10 to 30 s", "30 s to 2 min", "over 4 h"),
        *("unknown", "unknown", "unknown"),
    ]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.5, 500), st.sampled_from(["en", "de", None])), min_size=1, max_size=40))
def test_blocks_add_up_to_the_whole(recordings: list[tuple[float | None, str | None]]) -> None:
    table = plan_table(rows(recordings), CONFIG)
    whole = totals(table)
    sums = PlanTotals(0, 0, 0, 0.0, 0)
    for shard in range(whole.shards):
        sums = add_totals(sums, totals(table.filter(pc.equal(table["shard_index"], shard))))
    assert (sums.recordings, sums.windows, sums.shards) == (whole.recordings, whole.windows, whole.shards)
    for ours, theirs in ((sums.by_language, whole.by_language), (sums.by_duration, whole.by_duration)):
        assert {name: share["recordings"] for name, share in ours.items()} == {
            name: share["recordings"] for name, share in theirs.items()
        }
        assert sum(share["audio_s"] for share in ours.values()) == pytest.approx(whole.audio_s)


def test_a_manifest_with_a_language_per_row_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MOST_SLICES", 3)
    sums = totals(plan_table(rows([(1.0, f"x{n}") for n in range(10)]), CONFIG))
    assert list(sums.by_language) == ["x0", "x1", "x2", "other"]
    assert sums.by_language["other"]["recordings"] == 7
    again = add_shares(sums.by_language, sums.by_language)
    assert sum(share["recordings"] for share in again.values()) == 20
