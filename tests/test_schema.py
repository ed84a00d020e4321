"""The output's schema: records survive the way there and back, and the documentation says what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import ErrorCounts, Failure, RunIdentity, Segment, Span, Transcript, Word
from pipeline.schema import TRANSCRIPTS, failures_table, segments_table, transcript_of, transcripts_table

IDENTITY = RunIdentity("run", "fingerprint", "engine", "model", "revision")
times = st.floats(0, 1e5, allow_nan=False)
words = st.text(max_size=8)
counts = st.builds(ErrorCounts, *[st.integers(0, 99)] * 4)
segments = st.builds(
    Segment,
    id=st.integers(0, 99),
    start_s=times,
    end_s=times,
    text=words,
    flags=st.lists(words, max_size=2).map(tuple),
    words=st.lists(st.builds(Word, word=words, start_s=st.none() | times), max_size=2).map(tuple),
)
transcripts = st.builds(
    Transcript,
    id=words,
    uri=words,
    status=st.sampled_from(["ok", "partial", "failed"]),
    offset_s=times,
    duration_s=times,
    text=words,
    segments=st.lists(segments, max_size=3).map(tuple),
    spans=st.lists(st.builds(Span, times, times, st.just("non_speech")), max_size=2).map(tuple),
    failure=st.none() | st.builds(Failure, words, words, words, st.integers(1, 3)),
    language=st.none() | words,
    reference_text=st.none() | words,
    warnings=st.lists(words, max_size=2).map(tuple),
    flags=st.just(()),
    word_errors=st.none() | counts,
    char_errors=st.none() | counts,
    normalizer=st.none() | words,
    decode_s=times,
    engine_s=times,
    window_index=st.integers(0, 5),
    window_count=st.integers(1, 5),
    window_start_s=times,
    extra=st.dictionaries(words, words, max_size=2),
)


@given(st.lists(transcripts, max_size=4))
def test_rows_come_back_as_they_went(rows: list[Transcript]) -> None:
    table = transcripts_table(rows, IDENTITY, "00000-aa")
    assert table.schema.equals(TRANSCRIPTS, check_metadata=True)
    assert [transcript_of(row) for row in table.to_pylist()] == rows


@given(st.lists(transcripts, max_size=4))
def test_flat_views_hold_every_segment_and_every_failure(rows: list[Transcript]) -> None:
    table = transcripts_table(rows, IDENTITY, "00000-aa")
    whole = pa.concat_tables([table.slice(2), table.slice(0, 2)])  # chunked and sliced, as finalize sees it
    rows = rows[2:] + rows[:2]
    assert segments_table(whole)["text"].to_pylist() == [s.text for row in rows for s in row.segments]
    assert segments_table(whole)["recording_id"].to_pylist() == [row.id for row in rows for _ in row.segments]
    assert failures_table(whole)["code"].to_pylist() == [row.failure.code for row in rows if row.failure]


def test_the_page_of_columns_is_generated() -> None:
    docs = Path(__file__).resolve().parent.parent / "docs"
    generated = runpy.run_path(str(docs / "generate_output.py"))["page"]()
    assert (docs / "output.md").read_text("utf-8") == generated, "run `python docs/generate_output.py`"
