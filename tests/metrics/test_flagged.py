"""Flags of a run: counted as a plain loop counts them, in any cut of the rows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.flagged import Flagged, add_flags, count_flags
from pipeline.metrics.summary import RunTotals
from pipeline.records import RunIdentity, Segment, Span, Transcript
from pipeline.report.text import _flag_table
from pipeline.schema import transcripts_table

IDENTITY = RunIdentity("run", "f" * 12, "fake", "m", "r")
BARE = Transcript(
    **{
        **dict.fromkeys(Transcript.__slots__),
        **{"id": "a", "uri": "/a", "status": "ok", "text": "", "segments": (), "spans": (), "extra": {}},
        **{"offset_s": 0.0, "duration_s": 40.0, "decode_s": 0.0, "engine_s": 0.0, "warnings": (), "flags": ()},
        **{"window_index": 0, "window_count": 1, "window_start_s": 0.0},
    }
)
# Quarters of a second add up exactly in any order.
times = st.integers(0, 80).map(lambda quarters: quarters / 4)
segments = st.builds(
    Segment,
    st.just(0),
    times,
    times,
    st.just("x"),
    flags=st.lists(st.sampled_from(["too_fast", "draft", "own"]), unique=True).map(tuple),
)
spans = st.builds(Span, times, times, st.sampled_from(["non_speech", "unheard", "failed"]))
rows = st.lists(
    st.builds(
        lambda heard, other: replace(BARE, segments=tuple(heard), spans=tuple(other)),
        st.lists(segments, max_size=3),
        st.lists(spans, max_size=3),
    ),
    max_size=6,
)


def table(some: list[Transcript]) -> pa.Table:
    return transcripts_table(some, IDENTITY, "00000-aa")


def by_hand(some: list[Transcript]) -> dict[str, Flagged]:
    found: dict[str, Flagged] = defaultdict(Flagged)
    for row in some:
        pieces = [(flag, one.end_s - one.start_s) for one in row.segments for flag in one.flags]
        pieces += [("empty_on_speech", one.end_s - one.start_s) for one in row.spans if one.kind == "unheard"]
        for flag, length_s in pieces:
            found[flag] += Flagged(1, 0, max(length_s, 0.0))
        for flag in {flag for flag, _ in pieces}:
            found[flag] += Flagged(0, 1, 0.0)
    return dict(found)


@given(rows, st.integers(0, 6))
def test_counts_are_those_of_a_loop_in_any_cut(some: list[Transcript], cut: int) -> None:
    assert count_flags(table(some)) == by_hand(some)
    assert add_flags(count_flags(table(some).slice(cut)), count_flags(table(some).slice(0, cut))) == by_hand(some)
    assert count_flags(pa.concat_tables([table(some), table(some[:2])])) == add_flags(by_hand(some), by_hand(some[:2]))


def test_the_report_lists_flags_with_their_seconds() -> None:
    heard = tuple(Segment(n, 10.0 * n, 10.0 * n + 4, "x", flags=("too_fast", "draft")[n:]) for n in range(2))
    totals = RunTotals()
    totals.add(table([replace(BARE, segments=heard, spans=(Span(20.0, 40.0, "unheard"),))]))
    totals.add(table([replace(BARE, id="b", segments=heard[1:])]))
    found = totals.as_dict()
    assert list(found["flags"]) == ["empty_on_speech", "draft", "too_fast"]
    assert found["flags"]["draft"] == {"pieces": 3, "recordings": 2, "audio_s": pytest.approx(12.0)}
    lines = [line.split() for line in _flag_table(found).splitlines()]
    assert ["draft", "3", "2", "12.0", "s", "15.0", "%"] in lines
    assert ["empty_on_speech", "1", "1", "20.0", "s", "25.0", "%"] in lines
    assert _flag_table({"audio_s": 3.0}) == ""
