"""CTM and RTTM, read by the fields that NIST's tools document."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from finished_run import said, timed, transcript
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.names import safe_name
from pipeline.export.nist import ctm, rttm
from pipeline.export.options import ExportOptions
from pipeline.records import Segment, Span, Transcript, Word

CTM, RTTM = ExportOptions("ctm"), ExportOptions("rttm")


class CtmLine(NamedTuple):
    file: str
    channel: str
    start_s: float
    duration_s: float
    word: str
    confidence: float | None


def read_ctm(text: str | None) -> list[CtmLine]:
    """`<file> <channel> <start> <duration> <word> [<confidence>]`, parted by white space; ";;" begins a comment."""
    found = []
    for line in (text or "").splitlines():
        fields = line.split()
        assert not line.startswith(";;")
        assert len(fields) in (5, 6)
        confidence = float(fields[5]) if len(fields) == 6 else None
        found.append(CtmLine(fields[0], fields[1], float(fields[2]), float(fields[3]), fields[4], confidence))
    return found


def read_rttm(text: str | None) -> list[tuple[str, str, float, float, str]]:
    """Ten fields: type, file, channel, begin, duration, orthography, subtype, name, confidence, look-ahead."""
    found = []
    for line in (text or "").splitlines():
        kind, file, channel, start, duration, *rest = line.split(" ")
        assert kind == "SPEAKER"
        assert [rest[0], rest[1], *rest[3:]] == ["<NA>"] * 4
        found.append((file, channel, float(start), float(duration), rest[2]))
    return found


def test_words_come_back_with_times_and_confidence() -> None:
    found = ctm(transcript("a", [timed("so it goes", 2.0), Segment(1, 9, 9.5, "on", words=(Word("on", 9, 9.5),))]), CTM)
    assert read_ctm(found.text) == [
        CtmLine("a", "1", 2.0, 0.5, "so", 0.5),
        CtmLine("a", "1", 2.5, 0.5, "it", 0.5),
        CtmLine("a", "1", 3.0, 0.5, "goes", 0.5),
        CtmLine("a", "1", 9.0, 0.5, "on", None),
    ]


@given(
    st.text(max_size=30),
    st.lists(st.tuples(st.text(max_size=8), st.floats(0, 99), st.floats(0, 99), st.integers(0, 1)), max_size=20),
)
def test_every_word_is_a_line_whatever_it_is(recording_id: str, told: list[tuple[str, float, float, int]]) -> None:
    segments = [Segment(0, 0, 99, w, channel=c, words=(Word(w, s, e),)) for w, s, e, c in told]
    lines = read_ctm(ctm(transcript(recording_id, segments), CTM).text)
    assert {line.file for line in lines} <= {safe_name(recording_id)}
    assert [(line.channel, line.start_s) for line in lines] == sorted((line.channel, line.start_s) for line in lines)
    assert all(line.duration_s >= 0 for line in lines)
    assert len(lines) <= len(told)
    letters = sorted(c for line in lines for c in line.word if c.isalnum())
    assert letters == sorted(c for word, *_ in told for c in word if c.isalnum())


def test_a_recording_with_a_word_without_a_time_is_left_out_whole() -> None:
    half = Segment(0, 0, 2, "so it", words=(Word("so", 0, 1), Word("it", None, 2)))
    for segments in ([timed("well"), half], [timed("well"), said("without words", 5, 6)]):
        assert ctm(transcript("a", segments), CTM).text is None
        assert ctm(transcript("a", segments), CTM).left_out == {"no_word_times": 1}
    assert ctm(transcript("silent"), CTM).text == ""


def test_words_of_channels_that_are_kept_apart_lie_channel_by_channel() -> None:
    """Segments are merged by their starts; in a CTM each channel's words follow each other, counted from 1."""
    call = [
        replace(timed("how are you", 0.0), channel=0),
        replace(timed("fine thanks", 1.0), id=1, channel=1),  # into the other's last words
        replace(timed("good", 4.0), id=2, channel=0),
    ]
    lines = read_ctm(ctm(transcript("call", call, spans=(Span(2.0, 10.0, "non_speech", 1),)), CTM).text)
    assert [(line.channel, line.start_s, line.word) for line in lines] == [
        *(("1", 0.0, "how"), ("1", 0.5, "are"), ("1", 1.0, "you"), ("1", 4.0, "good")),
        *(("2", 1.0, "fine"), ("2", 1.5, "thanks")),
    ]
    assert {line.file for line in lines} == {"call"}


def test_speakers_come_back_and_nobody_is_made_up() -> None:
    found = rttm(
        transcript(
            "Call 7",
            [
                said("hello", 0.5, 2, speaker="Speaker 1"),
                said("good day", 1, 3.25, speaker="Speaker_1", channel=1),
                said("who is it", 4, 5),
            ],
        ),
        RTTM,
    )
    name = safe_name("Call 7")
    assert read_rttm(found.text) == [(name, "1", 0.5, 1.5, "Speaker_1"), (name, "2", 1.0, 2.25, "Speaker_1_2")]
    assert found.left_out == {"no_speaker": 1}
    assert rttm(transcript("a", [said("who")]), RTTM).text is None


def test_speakers_of_words_make_turns() -> None:
    words = [Word("a", 0, 1, None, "x"), Word("b", 1, 2, None, "x"), Word("c", 2, 3, None, "y")]
    turns = rttm(_of_words(words), RTTM)
    assert read_rttm(turns.text) == [("a", "1", 0.0, 2.0, "x"), ("a", "1", 2.0, 1.0, "y")]
    assert rttm(_of_words([*words, Word("d", 3, 4)]), RTTM).text is None


def _of_words(words: list[Word]) -> Transcript:
    return transcript("a", [Segment(0, 0, 4, "a b c", words=tuple(words))])
