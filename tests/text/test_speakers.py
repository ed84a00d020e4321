"""Speaker labels of a recording: no two people share one by accident, and names are the manifest's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import (
    Chunk,
    DecodedWindow,
    EngineStats,
    Hypothesis,
    Recording,
    Segment,
    Shard,
    TranscribedShard,
    Window,
    Word,
)
from pipeline.text.speakers import recording_label, with_speakers
from pipeline.text.stitch import window_segments

TURNS = (
    Segment(0, 0.0, 2.0, "Hello.", speaker="Speaker 1", words=(Word("Hello.", 0.0, 1.0, speaker="Speaker 1"),)),
    Segment(1, 2.0, 4.0, "Hi there.", words=(Word("Hi", speaker="Speaker 2"), Word("there."))),
    Segment(2, 4.0, 5.0, "Good.", speaker="Speaker 2"),
)


def heard(names: dict[str, str]) -> list[list[tuple[str | None, list[str | None]]]]:
    """Two windows of a recording, each with two chunks that hold the same turns: speakers by window."""
    recording = Recording("r", "/r.wav", speakers=names)
    windows = tuple(Window(recording, n, 2, 1790.0 + 10 * n, 1800.0 + 10 * n) for n in range(2))
    chunks = [Chunk(n // 2, n % 2, 1790.25 + 5 * n, 1795.25 + 5 * n, 0, 80_000) for n in range(4)]
    decoded = tuple(DecodedWindow(window.start_s, window.end_s) for window in windows)
    hypotheses = (Hypothesis("Hello. Hi there. Good.", segments=TURNS),) * 4
    shard = TranscribedShard(Shard("0-0", 0, windows, 20.0), decoded, tuple(chunks), hypotheses, EngineStats())
    return [
        [(segment.speaker, [word.speaker for word in segment.words]) for segment in window_segments(position, shard)[0]]
        for position in range(2)
    ]


def test_labels_of_the_first_chunk_are_plain_and_later_ones_say_where_their_numbering_began() -> None:
    first, second = heard({})
    assert first[:3] == [("Speaker 1", ["Speaker 1"]), (None, ["Speaker 2", None]), ("Speaker 2", [])]
    assert [speaker for speaker, _ in first[3:]] == ["Speaker 1 @0:29:55.250", None, "Speaker 2 @0:29:55.250"]
    assert second[0] == ("Speaker 1 @0:30:00.250", ["Speaker 1 @0:30:00.250"])
    assert second[4] == (None, ["Speaker 2 @0:30:05.250", None])


def test_names_replace_the_labels_they_are_given_for_and_no_others() -> None:
    first, second = heard({"Speaker 1": "Anna", "Speaker 2 @0:30:05.250": "Anna"})
    assert [speaker for speaker, _ in (*first, *second)] == [
        *("Anna", None, "Speaker 2"),
        *("Speaker 1 @0:29:55.250", None, "Speaker 2 @0:29:55.250"),
        *("Speaker 1 @0:30:00.250", None, "Speaker 2 @0:30:00.250"),
        *("Speaker 1 @0:30:05.250", None, "Anna"),
    ]
    assert second[4] == (None, ["Anna", None])


@given(st.lists(st.integers(0, 36_000 * 200), min_size=2, max_size=9, unique=True))
def test_chunks_that_begin_5_ms_apart_or_more_never_share_a_label(starts: list[int]) -> None:
    labels = {recording_label("Speaker 1", start * 0.005) for start in starts}
    assert len(labels) == len(starts)
    assert "Speaker 1" not in labels


@given(st.none() | st.floats(0, 86_400), st.dictionaries(st.sampled_from(["Speaker 1", "Speaker 2"]), st.text()))
def test_nothing_but_speakers_changes(numbered_from_s: float | None, names: dict[str, str]) -> None:
    def rest(segment: Segment) -> tuple[object, ...]:
        words = [(word.word, word.start_s, word.end_s, word.confidence) for word in segment.words]
        return segment.id, segment.start_s, segment.end_s, segment.text, segment.flags, words

    named = list(with_speakers(TURNS, numbered_from_s, names))
    assert [rest(segment) for segment in named] == [rest(segment) for segment in TURNS]
    assert [segment.speaker is None for segment in named] == [segment.speaker is None for segment in TURNS]


def test_long_recordings_count_their_hours() -> None:
    assert recording_label("Speaker 3", 36_059.9996) == "Speaker 3 @10:01:00.000"
