"""Which flagged stretches a page shows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from finished_run import IDENTITY, said, transcript

from pipeline.records import Segment, Span, Transcript
from pipeline.report.doubts import SEGMENT_COLUMNS, SPAN_COLUMNS, Doubts, located
from pipeline.schema import segments_table, transcripts_table
from pipeline.text.flags import FLAGS


def flagged(*flags: str, confidence: float | None = 0.8, **given: Any) -> Segment:
    return said("some words", confidence=confidence, flags=flags, **given)


def gathered(rows: list[Transcript], most: int, batch: int = 50) -> Doubts:
    doubts = Doubts(most)
    whole = transcripts_table(rows, IDENTITY, "00000-00000000")
    for some in segments_table(whole).select(SEGMENT_COLUMNS).to_batches(max_chunksize=batch):
        doubts.add_segments(some)
    for some in whole.select(SPAN_COLUMNS).to_batches(max_chunksize=batch):
        doubts.add_spans(some)
    return doubts


def test_worst_first() -> None:
    rows = [
        transcript("fine", [said("fine")]),
        transcript("unsure", [flagged("low_confidence", confidence=0.3)]),
        transcript("surer", [flagged("low_confidence", confidence=0.36)]),
        transcript("loop", [flagged("compressible", "repeated_ngrams", confidence=0.9)]),
        transcript("unknown", [flagged("low_confidence", confidence=None)]),
        transcript("nothing", spans=(Span(1.0, 7.0, "unheard"), Span(7.0, 9.0, "non_speech"))),
    ]
    found = gathered(rows, 10).worst()
    assert [one.recording_id for one in found] == ["loop", "nothing", "unsure", "surer", "unknown"]
    assert (found[1].start_s, found[1].end_s, found[1].flags) == (1.0, 7.0, ("empty_on_speech",))


@pytest.mark.parametrize("batch", [7, 1000])
def test_every_flag_is_there_and_the_number_is_kept(batch: int) -> None:
    rows = [transcript(f"loop-{at}", [flagged("loop_cut", "repeated_ngrams")]) for at in range(300)]
    rows += [transcript(f"{flag}-{at}", [flagged(flag)]) for flag in FLAGS for at in range(3)]
    rows += [transcript("odd", [flagged("of_an_engine")])]
    found = gathered(rows, 24, batch).worst()
    assert len(found) == 24
    shown = {flag for one in found for flag in one.flags}
    assert shown == set(FLAGS) - {"draft"} | {"of_an_engine"}
    assert [one.badness for one in found] == sorted((one.badness for one in found), reverse=True)
    assert found == gathered(rows, 24, 50).worst()


def test_one_recording_does_not_leave_out_the_others() -> None:
    long = [flagged("repeated_ngrams", start_s=float(at), end_s=at + 1.0, number=at) for at in range(50)]
    rows = [transcript("long", long), *(transcript(f"short-{at}", [flagged("low_confidence")]) for at in range(9))]
    found = gathered(rows, 8).worst()
    assert len(found) == 8
    assert sum(one.recording_id == "long" for one in found) == 3
    alone = gathered([transcript("long", long)], 8).worst()
    assert len(alone) == 8


def test_marks_are_no_doubts() -> None:
    assert gathered([transcript("a", [flagged("draft")]), transcript("b", [flagged("retried")])], 5).worst() == []


def test_the_place_of_a_recording_is_looked_up() -> None:
    rows = [transcript("a", [flagged("too_fast")], uri="s3://bucket/a.wav", offset_s=3.5)]
    batches = transcripts_table(rows, IDENTITY, "x").select(["id", "uri", "offset_s"]).to_batches()
    (found,) = located(gathered(rows, 5).worst(), batches)
    assert (found.uri, found.offset_s) == ("s3://bucket/a.wav", 3.5)


def test_no_rows() -> None:
    doubts = Doubts(4)
    whole = transcripts_table([], IDENTITY, "x")
    doubts.add_segments(pa.RecordBatch.from_pylist([], schema=segments_table(whole).select(SEGMENT_COLUMNS).schema))
    assert doubts.worst() == []
