"""What is heard again: every flagged segment once, nothing twice, no segment cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from transcripts import transcript, transcripts

from pipeline.records import Segment, Span, Transcript
from pipeline.text.choice import MENDABLE
from pipeline.text.stretches import Stretch, failed_stretches, flagged_stretches


def said(start_s: float, end_s: float, *flags: str) -> Segment:
    return Segment(0, start_s, end_s, "word", flags=flags)


def bounds(stretches: list[Stretch]) -> list[tuple[float, float | None]]:
    return [(stretch.start_s, stretch.end_s) for stretch in stretches]


@given(transcripts(), st.sets(st.sampled_from(sorted(MENDABLE)), min_size=1), st.floats(1, 40))
def test_every_flagged_piece_is_in_one_stretch_and_none_is_cut(
    row: Transcript, flags: set[str], longest_s: float
) -> None:
    found = flagged_stretches(row, flags, longest_s)
    assert all(one.end_s <= other.start_s for one, other in pairwise(found))  # type: ignore[operator]
    pieces = [(one.start_s, one.end_s, bool(flags & set(one.flags))) for one in row.segments]
    heard = [span for span in row.spans if span.kind == "unheard"]
    pieces += [(span.start_s, span.end_s, "empty_on_speech" in flags) for span in heard]
    for start_s, end_s, wanted in pieces:
        around = [one for one in found if one.start_s < end_s and start_s < one.end_s]  # type: ignore[operator]
        assert len(around) == wanted
        assert all(one.start_s <= start_s and end_s <= one.end_s for one in around)  # type: ignore[operator]
    for one in found:
        inside = [piece for piece in pieces if one.start_s <= piece[0] and piece[1] <= one.end_s]  # type: ignore[operator]
        assert one.end_s - one.start_s <= longest_s or len(inside) == 1  # type: ignore[operator]


@given(transcripts(), st.floats(1, 40))
def test_what_was_tried_is_left_out(row: Transcript, longest_s: float) -> None:
    found = flagged_stretches(row, MENDABLE, longest_s)
    tried = [(one.start_s, one.end_s) for one in found]
    assert flagged_stretches(row, MENDABLE, longest_s, tried) == []  # type: ignore[arg-type]
    assert flagged_stretches(row, MENDABLE, longest_s, tried[1:]) == found[:1]  # type: ignore[arg-type]


def test_neighbours_are_heard_together_unless_far_or_long() -> None:
    flagged = [said(0, 4, "too_fast"), said(4.5, 8, "compressible"), said(10, 12, "too_fast"), said(12, 20, "too_fast")]
    row = transcript(flagged, [Span(4, 4.5, "non_speech"), Span(8, 10, "non_speech")])
    assert bounds(flagged_stretches(row, MENDABLE, 30)) == [(0, 8), (10, 20)]
    assert bounds(flagged_stretches(row, MENDABLE, 8)) == [(0, 8), (10, 12), (12, 20)]
    assert bounds(flagged_stretches(row, {"compressible"}, 30)) == [(4.5, 8)]


def test_segments_that_overlap_are_replaced_together() -> None:
    row = transcript([said(0, 4), said(3, 6, "too_fast"), said(5, 8), said(8, 9)], [])
    assert bounds(flagged_stretches(row, MENDABLE, 30)) == [(0, 8)]


def test_a_failed_span_is_not_heard_with_its_flagged_neighbours() -> None:
    spans = [Span(4, 4.5, "failed"), Span(6, 9, "unheard")]
    row = transcript([said(0, 4, "too_fast"), said(4.5, 6, "too_fast")], spans)
    assert bounds(flagged_stretches(row, MENDABLE, 30)) == [(0, 4), (4.5, 9)]
    assert failed_stretches(row) == [Stretch(4, 4.5, "failed")]


def test_of_a_recording_that_failed_as_a_whole_all_is_tried() -> None:
    gone = transcript([], [Span(0, 60, "failed")], duration_s=0.0)
    assert failed_stretches(gone) == [Stretch(0.0, None, "failed")]
    decoded = transcript([], [Span(0, 10, "non_speech"), Span(10, 60, "failed")])
    assert bounds(failed_stretches(decoded)) == [(10, 60)]


def test_what_is_too_short_to_hear_is_left() -> None:
    row = transcript([said(0, 0.05, "too_fast"), said(2, 3)], [Span(0.05, 2, "non_speech")])
    assert flagged_stretches(row, MENDABLE, 30) == []
