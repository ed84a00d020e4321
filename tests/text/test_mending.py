"""A transcript with a stretch heard again: its time still tiles, the rest is untouched, and doing it twice changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from transcripts import TICK_S, transcript, transcripts

from pipeline.records import Failure, Segment, Span, Transcript, Word
from pipeline.text.choice import MENDABLE, RETRIED, Guard
from pipeline.text.mending import HeardAgain, mend
from pipeline.text.stretches import failed_stretches, flagged_stretches
from pipeline.text.timeline import audit

GUARD = Guard()


@st.composite
def heard_again(draw: st.DrawFn) -> tuple[Transcript, HeardAgain]:
    """A row, and one of its stretches as another engine might have heard it."""
    row = draw(transcripts())
    found = [one for one in [*flagged_stretches(row, MENDABLE, 30), *failed_stretches(row)] if one.end_s is not None]
    assume(found)
    stretch = draw(st.sampled_from(found))
    length_s = (stretch.end_s or 0.0) - stretch.start_s
    second = draw(transcripts(length=round(length_s / TICK_S)))
    return row, HeardAgain(stretch.start_s, stretch.end_s, second, draw(st.sampled_from(["one", "other"])))


@given(heard_again())
def test_time_still_tiles_and_the_rest_is_untouched(made: tuple[Transcript, HeardAgain]) -> None:
    row, again = made
    mended, verdict = mend(row, again, "one", GUARD)
    pieces = [(one.start_s, one.end_s) for one in [*mended.segments, *mended.spans]]
    assert audit(0.0, row.duration_s, pieces, tolerance_s=1e-9) == []
    assert [segment.id for segment in mended.segments] == list(range(len(mended.segments)))
    assert [one.start_s for one in mended.segments] == sorted(one.start_s for one in mended.segments)
    assert mended.text == " ".join(segment.text for segment in mended.segments)
    outside = [one for one in row.segments if one.end_s <= again.start_s or one.start_s >= (again.end_s or 0)]
    kept = {(one.start_s, one.text, one.flags) for one in mended.segments}
    assert {(one.start_s, one.text, one.flags) for one in outside} <= kept
    if verdict.choice.second:
        inside = [one for one in mended.segments if RETRIED in one.flags]
        assert [one.text for one in inside] == [one.text for one in again.row.segments]
    else:
        assert mended == row


@given(heard_again())
def test_the_same_stretch_twice_changes_nothing_more(made: tuple[Transcript, HeardAgain]) -> None:
    row, again = made
    once, first = mend(row, again, "one", GUARD)
    twice, second = mend(once, again, "one", GUARD)
    assert twice == once
    assert not (first.choice.second and second.choice.second)


@given(heard_again())
def test_a_row_is_ok_when_nothing_of_it_is_lost(made: tuple[Transcript, HeardAgain]) -> None:
    row, again = made
    mended, _ = mend(row, again, "one", GUARD)
    lost = any(span.kind == "failed" for span in mended.spans)
    assert (mended.failure is not None) == lost
    assert mended.status == ("ok" if not lost else "partial" if mended.segments else "failed")


def spoken(text: str, start_s: float, end_s: float, *flags: str, **more: object) -> Segment:
    return Segment(0, start_s, end_s, text, flags=flags, **more)  # type: ignore[arg-type]


def test_times_move_to_the_recordings_clock_and_stay_inside() -> None:
    row = transcript([spoken("wrong", 10, 12, "too_fast", speaker="Ann", channel=1)], [Span(0, 10, "non_speech")])
    word = Word("right", 0.5, 2.25, speaker="1")
    second = transcript([spoken("right", 0.25, 2.25, words=(word,), speaker="1")], [Span(0, 0.25, "non_speech")])
    mended, verdict = mend(row, HeardAgain(10.0, 12.0, second, "other"), "one", GUARD)
    assert verdict.choice.reason == "lighter"
    (segment,) = mended.segments
    assert (segment.start_s, segment.end_s, segment.speaker) == (10.25, 12.0, "Ann")
    assert segment.words == (Word("right", 10.5, 12.0, speaker="Ann"),)
    assert mended.spans == (Span(0, 10.25, "non_speech"),)
    assert verdict.second.segments == mended.segments


def test_a_stretch_of_several_speakers_has_none_afterwards() -> None:
    first = [spoken("wrong", 0, 1, "too_fast", speaker="Ann"), spoken("too", 1, 2, "too_fast", speaker="Bob")]
    second = transcript([spoken("right too", 0, 2, speaker="1")], [])
    mended, _ = mend(transcript(first, []), HeardAgain(0.0, 2.0, second, "other"), "one", GUARD)
    assert [(one.text, one.speaker) for one in mended.segments] == [("right too", None)]


def test_a_row_is_in_the_language_that_most_of_it_is_in_now() -> None:
    first = [spoken("mot", 0, 6, "language_not_allowed", language="fr"), spoken("word", 6, 8, language="en")]
    second = transcript([spoken("wort", 0, 6, language="de")], [], warnings=("keywords_ignored", "decode_errors:2"))
    mended, _ = mend(transcript(first, [], language="fr"), HeardAgain(0.0, 6.0, second, "other"), "one", GUARD)
    assert (mended.language, mended.warnings, mended.status) == ("de", ("keywords_ignored",), "ok")
    named = transcript(first, [], language="de-AT")
    assert mend(named, HeardAgain(0.0, 6.0, second, "other"), "one", GUARD)[0].language == "de-AT"


def test_what_a_late_decoding_lost_is_said() -> None:
    lost = transcript([spoken("before", 0, 4)], [Span(4, 8, "failed")], duration_s=4.0)
    second = transcript([spoken("after", 0, 4)], [], warnings=("decode_errors:2",))
    mended, _ = mend(lost, HeardAgain(4.0, 8.0, second, "other"), "one", GUARD)
    assert (mended.status, mended.failure, mended.warnings) == ("partial", None, ("decode_errors:2",))


def test_segments_that_are_no_longer_those_are_left() -> None:
    row = transcript([spoken("other", 0, 5, "too_fast")], [])
    second = transcript([spoken("right one", 0, 3)], [])
    mended, verdict = mend(row, HeardAgain(1.0, 4.0, second, "other"), "one", GUARD)
    assert verdict.choice.reason == "moved"
    assert mended == row


def test_segments_keep_the_order_in_which_they_were_said() -> None:
    """Of one start, the longer one first; and without length, where the stretch begins or ends."""
    first = [spoken("one", 0, 4), spoken("two", 0, 2), spoken("wrong words", 4, 8, "too_fast"), spoken("six", 8, 8)]
    second = transcript([spoken("three four", 0, 4), spoken("five", 4, 4)], [])
    mended, verdict = mend(transcript(first, []), HeardAgain(4.0, 8.0, second, "other"), "one", GUARD)
    assert verdict.choice.reason == "lighter"
    assert mended.text == "one two three four five six"


def test_half_a_stretch_is_a_gain_where_all_had_failed_but_not_in_the_place_of_a_text() -> None:
    half = transcript([spoken("right enough", 0, 2)], [Span(2, 4, "failed")])
    lost = transcript([spoken("before", 0, 4)], [Span(4, 8, "failed")], duration_s=4.0)
    mended, verdict = mend(lost, HeardAgain(4.0, 8.0, half, "other"), "one", GUARD)
    assert verdict.choice.reason == "recovered"
    assert (mended.status, mended.duration_s, mended.text) == ("partial", 6.0, "before right enough")
    assert mended.spans == (Span(6, 8, "failed"),)
    flagged = transcript([spoken("before", 0, 4), spoken("wrong", 4, 8, "too_fast")], [])
    assert mend(flagged, HeardAgain(4.0, 8.0, half, "other"), "one", GUARD)[1].choice.reason == "second_failed"


def test_a_recording_that_had_failed_becomes_the_second_row_and_keeps_what_is_its_own() -> None:
    gone = transcript([], [Span(0, 9, "failed")], duration_s=0.0, reference_text="right", extra={"shelf": "7"})
    found = transcript([spoken("right", 0, 5)], [], id="r#0", extra={"recording": "r"})
    mended, verdict = mend(gone, HeardAgain(0.0, None, found, "other"), "one", GUARD)
    assert verdict.choice.reason == "recovered"
    assert (mended.id, mended.status, mended.duration_s, mended.failure) == ("r", "ok", 5.0, None)
    assert (mended.reference_text, mended.extra, mended.flags) == ("right", {"shelf": "7"}, ("retried",))


@pytest.mark.parametrize("tries", [1, 2])
def test_tries_in_vain_are_counted(tries: int) -> None:
    gone = transcript([], [Span(0, 9, "failed")], duration_s=0.0)
    still = replace(gone, failure=Failure("fetch", "not_found", "It is not there."))
    for _ in range(tries):
        gone, verdict = mend(gone, HeardAgain(0.0, None, still, "other"), "one", GUARD)
        assert verdict.choice.reason == "second_failed"
    assert gone.failure
    assert (gone.failure.attempts, gone.failure.code) == (1 + tries, "engine_error")
