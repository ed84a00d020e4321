"""Lines and times of subtitles: nothing lost, nothing too wide, nothing out of order."""

from __future__ import annotations

from itertools import pairwise

import pytest
from finished_run import said, timed
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.export.cues import Cue, columns, cues_of, line_spans, one_line
from pipeline.records import Segment, Word

TEXTS = st.one_of(
    st.text(max_size=200),
    st.text("ab ,.é日本語、。\u0301\u200d👩 \n\t-->", max_size=200),
    st.lists(st.text("abcdefgh", min_size=1, max_size=12), max_size=40).map(" ".join),
)
WIDTHS = st.integers(8, 60)
TIMES = st.floats(0, 50_000, allow_nan=False)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    """Any text, any times, and words that may be the text's, may lie outside, go back, or have no time."""
    text, start_s = draw(TEXTS), draw(TIMES)
    end_s = start_s + draw(st.sampled_from([0.0, 0.001, 0.004, 0.5, 3.0, 60.0]))
    moments = (
        st.one_of(st.none(), st.floats(start_s - 1, end_s + 1)) if draw(st.booleans()) else st.floats(start_s, end_s)
    )
    words = [Word(word, draw(moments), draw(moments)) for word in text.split()] if draw(st.booleans()) else []
    return Segment(0, start_s, end_s, text, words=tuple(words))


def bare(text: str) -> str:
    return "".join(one_line(text).split())


@given(segments(), WIDTHS, st.integers(1, 4))
def test_cues_hold_the_whole_text_in_order_inside_the_segment(segment: Segment, width: int, count: int) -> None:
    cues = cues_of([segment], width, count)
    assert bare("".join(line for cue in cues for line in cue.lines)) == bare(segment.text)
    start_ms = round(segment.start_s * 1000)
    end_ms = max(round(segment.end_s * 1000), start_ms + 1)
    for cue in cues:
        assert start_ms <= cue.start_ms < cue.end_ms <= end_ms
        assert all(line == line.strip(" ") != "" and columns(line) <= width for line in cue.lines)
        assert len(cue.lines) <= count or len(cues) == 1
    assert all(one.end_ms <= other.start_ms for one, other in pairwise(cues))


@given(TEXTS, WIDTHS)
def test_lines_are_what_stands_between_single_spaces(text: str, width: int) -> None:
    text = one_line(text)
    spans = line_spans(text, width)
    ends = [0, *(end for _, end in spans)]
    assert all(text[gap:start] in ("", " ") for gap, (start, _) in zip(ends, spans, strict=False))
    assert ends[-1] == len(text)
    assert sum(end - start for start, end in spans) + text.count(" ") >= len(text)


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=60).map(" ".join), WIDTHS)
def test_words_that_fit_a_line_are_never_broken(text: str, width: int) -> None:
    assert " ".join(text[start:end] for start, end in line_spans(text, width)) == text


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=8), min_size=1, max_size=60).map(" ".join), WIDTHS)
def test_parts_begin_and_end_with_their_words(text: str, width: int) -> None:
    segment = timed(text, start_s=3.0)
    at = 0
    for cue in cues_of([segment], width, 2):
        words = " ".join(cue.lines).split()
        first, last = segment.words[at], segment.words[at + len(words) - 1]
        assert (cue.start_ms, cue.end_ms) == (round(first.start_s * 1000), round(last.end_s * 1000))  # type: ignore[operator]
        at += len(words)


def test_parts_without_word_times_share_the_time_by_letters() -> None:
    cues = cues_of([said("aaaa bbbb cccc dddd eeee ffff", 10, 39)], 9, 1)
    assert [cue.lines[0] for cue in cues] == ["aaaa bbbb", "cccc dddd", "eeee ffff"]
    assert [cue.start_ms for cue in cues] == [10_000, 20_000, 30_000]
    assert [cue.end_ms for cue in cues] == [19_000, 29_000, 39_000]


@pytest.mark.parametrize(
    "words",
    [
        (Word("aaaa", 10, 11), Word("cccc", 12, 13)),  # the engine left words out
        (Word("aaaa", 10, 11), Word("bbbb", None, None), Word("cccc", 12, 13)),
        (Word("zzzz", 10, 11),),
    ],
)
def test_words_that_are_not_the_text_are_not_believed(words: tuple[Word, ...]) -> None:
    segment = Segment(0, 10, 24, "aaaa bbbb cccc", words=words)
    assert [cue.start_ms for cue in cues_of([segment], 8, 1)] == [10_000, 15_000, 20_000]


def test_words_spelled_with_spaces_and_without_marks_are_found() -> None:
    """Whisper's words begin with a space; CTC words have no comma."""
    segment = Segment(0, 0, 9, " Well, no!", words=(Word(" Well", 1, 2), Word(" no!", 7, 8)))
    (cue,) = cues_of([segment], 40, 2)
    assert (cue.start_ms, cue.end_ms) == (1000, 8000)


def test_a_line_does_not_begin_with_a_closing_mark() -> None:
    lines = [line for cue in cues_of([said("今日はいい天気、明日も。")], 14, 9) for line in cue.lines]
    assert lines == ["今日はいい天", "気、明日も。"]


def test_segments_that_overlap_stay_as_they_are_and_are_sorted() -> None:
    cues = cues_of([said("one", 2, 5), said("two", 1, 4), said(" \0\n", 0, 1)], 40, 2)
    assert cues == [Cue(1000, 4000, ("two",)), Cue(2000, 5000, ("one",))]


@given(TEXTS, TEXTS, WIDTHS)
def test_a_speaker_stands_before_the_text_inside_the_width(text: str, speaker: str, width: int) -> None:
    assume(one_line(text))
    cues = cues_of([said(text, speaker=speaker)], width, 2, name_speakers=True)
    prefix = f"{one_line(speaker)}:" if one_line(speaker) else ""
    assert bare("".join(line for cue in cues for line in cue.lines)) == bare(prefix + text)
    assert all(columns(line) <= width for cue in cues for line in cue.lines)
