"""Transcripts of split recordings: every channel is a timeline of its own, merged by time, and mended by itself."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st
from transcripts import TICK_S, transcript, transcripts

from pipeline.records import (
    Chunk,
    DecodedWindow,
    EngineStats,
    Hypothesis,
    Recording,
    Segment,
    Shard,
    Span,
    TranscribedShard,
    Transcript,
    Window,
)
from pipeline.text.choice import MENDABLE, Guard
from pipeline.text.mending import HeardAgain, mend
from pipeline.text.speakers import with_speakers
from pipeline.text.stitch import in_turn, merged_spans, window_segments
from pipeline.text.stretches import channels_of, failed_stretches, flagged_stretches
from pipeline.text.timeline import audit


def on_channel(row: Transcript, channel: int) -> Transcript:
    segments = tuple(replace(one, channel=channel, speaker=f"S{channel}") for one in row.segments)
    return replace(row, segments=segments, spans=tuple(replace(one, channel=channel) for one in row.spans))


def pieces(row: Transcript, channel: int) -> list[tuple[float, float]]:
    return [(one.start_s, one.end_s) for one in [*row.segments, *row.spans] if one.channel in (None, channel)]


@st.composite
def split_transcripts(draw: st.DrawFn) -> Transcript:
    """Two channels of equal length, each tiled."""
    length = draw(st.integers(10, 200))
    sides = [on_channel(draw(transcripts(length=length)), channel) for channel in range(2)]
    segments = list(in_turn(segment for side in sides for segment in side.segments))
    return transcript(segments, merged_spans(span for side in sides for span in side.spans))


@given(split_transcripts())
def test_merging_keeps_each_channels_timeline_and_order(row: Transcript) -> None:
    assume(len(channels_of(row)) == 2)
    assert [one.start_s for one in row.segments] == sorted(one.start_s for one in row.segments)
    for channel in range(2):
        assert audit(0.0, row.duration_s, pieces(row, channel), tolerance_s=1e-9) == []


@given(split_transcripts(), st.data())
def test_a_stretch_of_one_channel_leaves_the_other_alone(row: Transcript, data: st.DataObject) -> None:
    found = [one for channel in channels_of(row) for one in flagged_stretches(row, MENDABLE, 30, (), channel)]
    found = [one for one in [*found, *failed_stretches(row)] if one.end_s is not None and one.channel is not None]
    assume(found)
    stretch = data.draw(st.sampled_from(found))
    assert stretch.end_s is not None
    assert stretch.channel is not None
    second = data.draw(transcripts(length=round((stretch.end_s - stretch.start_s) / TICK_S)))
    second = replace(second, segments=tuple(replace(one, channel=stretch.channel) for one in second.segments))
    again = HeardAgain(stretch.start_s, stretch.end_s, second, "other", stretch.channel)
    mended, verdict = mend(row, again, "one", Guard())
    for channel in range(2):
        assert audit(0.0, row.duration_s, pieces(mended, channel), tolerance_s=1e-9) == []
    other = 1 - stretch.channel
    untouched = [replace(one, id=0) for one in row.segments if one.channel == other]
    assert [replace(one, id=0) for one in mended.segments if one.channel == other] == untouched
    assert [one.start_s for one in mended.segments] == sorted(one.start_s for one in mended.segments)
    if verdict.choice.second:
        heard = [one.text for one in mended.segments if one.channel == stretch.channel and "retried" in one.flags]
        assert heard == [one.text for one in second.segments]


def test_who_begins_first_comes_first_and_of_two_at_once_the_lower_channel() -> None:
    recording = Recording("r", "/r.wav", channel=-1, speakers={"Speaker 0": "agent"})
    window = Window(recording, 0, 1, 0.0, 20.0)
    times = [(0, 0.0, 6.0), (0, 10.0, 14.0), (1, 0.0, 3.0), (1, 5.0, 12.0)]
    chunks = tuple(
        Chunk(0, index, start_s, end_s, 0, round((end_s - start_s) * 16_000), None, channel)
        for index, (channel, start_s, end_s) in enumerate(times)
    )
    texts = ("hello", "goodbye", "good", "morning")
    outcomes = tuple(Hypothesis(text) for text in texts)
    shard = TranscribedShard(
        Shard("0-0", 0, (window,), 20.0), (DecodedWindow(0.0, 20.0),), chunks, outcomes, EngineStats()
    )
    segments, _, _ = window_segments(0, shard)
    assert [(one.text, one.channel, one.speaker) for one in segments] == [
        ("hello", 0, "agent"),
        ("good", 1, None),
        ("morning", 1, None),
        ("goodbye", 0, "agent"),
    ]


def test_speakers_of_a_channel_are_its_own_unless_it_has_one_name() -> None:
    segments = [Segment(0, 0.0, 1.0, "a", speaker="Speaker 1"), Segment(1, 1.0, 2.0, "b")]

    def named(channel: int, names: dict[str, str]) -> list[str | None]:
        return [one.speaker for one in with_speakers(segments, None, names, channel)]

    assert named(1, {}) == ["Channel 1 Speaker 1", None]
    assert named(1, {"Channel 1": "agent"}) == ["agent", "agent"]
    assert named(1, {"Channel 1": "agent", "Channel 1 Speaker 1": "Ann"}) == ["Ann", "agent"]
    assert named(0, {"Channel 1": "agent"}) == ["Channel 0 Speaker 1", None]


def test_a_failure_of_the_whole_recording_is_heard_again_on_all_channels() -> None:
    spans = [Span(0.0, 4.0, "failed"), Span(4.0, 9.0, "failed", 1), Span(4.0, 9.0, "non_speech", 0)]
    found = [(one.start_s, one.end_s, one.channel) for one in failed_stretches(transcript([], spans))]
    assert found == [(0.0, 4.0, None), (4.0, 9.0, 1)]
