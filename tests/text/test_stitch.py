from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import (
    Chunk,
    DecodedWindow,
    EngineStats,
    Failure,
    Hypothesis,
    Recording,
    Segment,
    Shard,
    Span,
    TranscribedShard,
    Transcript,
    Window,
    Word,
)
from pipeline.text.stitch import join_windows, transcript_text, window_segments
from pipeline.text.timeline import audit

LOST = Failure("transcribe", "engine_error", "The engine gave up.")
words_of_text = st.lists(st.sampled_from(["oh", "say", "can", "you", "see"]), max_size=4).map(" ".join)
engine_times = st.floats(-1.0, 20.0)  # engines overrun their chunk at times

hypotheses = st.builds(
    Hypothesis,
    text=words_of_text,
    language=st.sampled_from([None, "en"]),
    segments=st.lists(
        st.builds(
            Segment,
            id=st.just(0),
            start_s=engine_times,
            end_s=engine_times,
            text=words_of_text,
            words=st.lists(
                st.builds(
                    Word,
                    word=st.just("oh"),
                    start_s=st.none() | engine_times,
                    end_s=st.none() | engine_times,
                ),
                max_size=3,
            ).map(tuple),
        ),
        max_size=4,
    ).map(tuple),
)


@st.composite
def shards(draw):
    """Windows one after the other of one recording, with chunks and silence in them, and what the engine made of them."""
    windows, decoded, chunks, outcomes = [], [], [], []
    start_s, count, offset = 0.0, draw(st.integers(1, 4)), 0
    recording = Recording("r", "file:///r.wav", channel=draw(st.sampled_from([None, 1])))
    for position in range(count):
        tenths = sorted(draw(st.lists(st.integers(0, 600), min_size=2, max_size=8, unique=True)))
        edges = [start_s + tenth / 10 for tenth in tenths]
        windows.append(Window(recording, position, count, edges[0], edges[-1]))
        if draw(st.integers(0, 5)) == 0 and position:
            decoded.append(DecodedWindow(edges[0], edges[0], failure=Failure("fetch", "fetch_failed", "It broke off.")))
            start_s = edges[-1]
            continue
        spans = []
        for index, (low_s, high_s) in enumerate(pairwise([start_s, *edges[1:]])):
            if draw(st.booleans()):
                spans.append(Span(low_s, high_s, "non_speech"))
                continue
            n_samples = round((high_s - low_s) * 16_000)
            chunks.append(Chunk(position, index, low_s, high_s, offset, n_samples))
            outcomes.append(draw(st.just(LOST) | hypotheses))
            offset += n_samples
        decoded.append(DecodedWindow(start_s, edges[-1], tuple(spans)))
        start_s = edges[-1]
    shard = Shard("0-0", 0, tuple(windows), start_s)
    return TranscribedShard(shard, tuple(decoded), tuple(chunks), tuple(outcomes), EngineStats())


def row(shard: TranscribedShard, position: int) -> Transcript:
    segments, spans, failure = window_segments(position, shard)
    window, decoded = shard.shard.windows[position], shard.windows[position]
    length_s = decoded.end_s - decoded.start_s
    return Transcript(
        id=window.recording.id,
        uri=window.recording.uri,
        status="failed" if failure and not segments else "partial" if failure else "ok",
        offset_s=0.0,
        duration_s=length_s,
        text=transcript_text(segments, "en"),
        segments=segments,
        spans=spans,
        failure=failure,
        language="en",
        reference_text=None,
        warnings=(f"warning {position % 2}",),
        flags=("flag",),
        word_errors=None,
        char_errors=None,
        normalizer=None,
        decode_s=1.0,
        engine_s=2.0,
        window_index=window.index,
        window_count=window.count,
        window_start_s=decoded.start_s,
        extra={"speaker": "Ann"},
    )


def rows(shard: TranscribedShard) -> list[Transcript]:
    return [row(shard, position) for position in range(len(shard.windows))]


def pieces(transcript: Transcript) -> list[tuple[float, float]]:
    return [(piece.start_s, piece.end_s) for piece in (*transcript.segments, *transcript.spans)]


def unaccounted(transcript: Transcript, end_s: float) -> list:
    return [problem for problem in audit(0.0, end_s, pieces(transcript)) if problem.kind != "overlap"]


@given(shards())
def test_every_second_of_a_window_is_a_segment_or_a_span(shard):
    for position, decoded in enumerate(shard.windows):
        found = [(piece.start_s, piece.end_s) for part in window_segments(position, shard)[:2] for piece in part]
        problems = audit(decoded.start_s, decoded.end_s, found)
        assert [problem for problem in problems if problem.kind == "gap"] == []


@given(shards())
def test_segments_are_numbered_and_in_order_and_their_words_inside_them(shard):
    for position in range(len(shard.windows)):
        segments, spans, _ = window_segments(position, shard)
        assert [segment.id for segment in segments] == list(range(len(segments)))
        assert all(before.start_s <= after.start_s for before, after in pairwise(segments))
        assert all(before.end_s <= after.start_s for before, after in pairwise(spans))
        assert not any(before.kind == after.kind and before.end_s == after.start_s for before, after in pairwise(spans))
        chunks = [chunk for chunk in shard.chunks if chunk.window == position]
        for segment in segments:
            assert any(chunk.start_s <= segment.start_s <= segment.end_s <= chunk.end_s for chunk in chunks)
            times = [time_s for word in segment.words for time_s in (word.start_s, word.end_s) if time_s is not None]
            assert all(segment.start_s <= time_s <= segment.end_s for time_s in times)
            assert times == sorted(times)


@given(shards())
def test_every_word_the_engine_gave_is_in_the_text(shard):
    for position in range(len(shard.windows)):
        expected = []
        for chunk, outcome in zip(shard.chunks, shard.outcomes, strict=True):
            if chunk.window == position and isinstance(outcome, Hypothesis):
                texts = [segment.text for segment in outcome.segments] or [outcome.text]
                expected += [word for text in texts for word in text.split()]
        assert transcript_text(window_segments(position, shard)[0], "en").split() == expected


@given(shards())
def test_times_the_engine_did_not_give_are_not_invented(shard):
    given_times = sum(
        (word.start_s is not None) + (word.end_s is not None)
        for outcome in shard.outcomes
        if isinstance(outcome, Hypothesis)
        for segment in outcome.segments
        if segment.text
        for word in segment.words
    )
    kept = [word for r in rows(shard) for segment in r.segments for word in segment.words]
    assert sum((word.start_s is not None) + (word.end_s is not None) for word in kept) == given_times


@given(hypotheses)
def test_what_is_stitched_stays_as_it_is_when_stitched_again(hypothesis):
    def rounded(segments, moved_s):
        def moved(time_s):
            return None if time_s is None else round(time_s + moved_s, 6)

        for segment in segments:
            words = tuple(replace(word, start_s=moved(word.start_s), end_s=moved(word.end_s)) for word in segment.words)
            yield replace(segment, start_s=moved(segment.start_s), end_s=moved(segment.end_s), words=words)

    once = window_segments(0, one_window(DecodedWindow(100.0, 110.0), [hypothesis]))
    own = tuple(rounded(once[0], -100.0))
    again = window_segments(0, one_window(DecodedWindow(100.0, 110.0), [replace(hypothesis, segments=own)]))
    if own:
        assert list(rounded(again[0], 0.0)) == list(rounded(once[0], 0.0))
        assert [(pytest.approx(span.start_s), span.kind) for span in once[1]] == [(s.start_s, s.kind) for s in again[1]]


@given(shards(), st.randoms(use_true_random=False))
def test_joined_windows_account_for_the_whole_recording(shard, random):
    windows = rows(shard)
    shuffled = random.sample(windows, len(windows))
    joined = join_windows(shuffled)
    assert join_windows(windows) == joined
    assert join_windows([joined]) == joined
    assert unaccounted(joined, shard.shard.windows[-1].end_s) == []
    assert joined.text.split() == [word for window in windows for word in window.text.split()]
    assert [segment.id for segment in joined.segments] == list(range(sum(len(window.segments) for window in windows)))
    assert all(before.start_s <= after.start_s for before, after in pairwise(joined.segments))
    assert all(before.end_s <= after.start_s for before, after in pairwise(joined.spans))
    assert joined.duration_s == pytest.approx(sum(window.duration_s for window in windows))
    assert (joined.decode_s, joined.engine_s) == (1.0 * len(windows), 2.0 * len(windows))
    assert (joined.window_index, joined.window_count, joined.window_start_s) == (0, 1, 0.0)
    assert joined.warnings == ("warning 0", "warning 1")[: len(windows)]


@given(shards())
def test_the_status_of_the_whole_follows_from_its_windows(shard):
    windows = rows(shard)
    joined = join_windows(windows)
    statuses = {window.status for window in windows}
    assert joined.status == (statuses.pop() if len(statuses) == 1 else "partial")
    assert joined.failure == next((window.failure for window in windows if window.failure), None)


@given(shards(), st.data())
def test_a_missing_or_doubled_window_is_refused(shard, data):
    windows = rows(shard)
    at = data.draw(st.integers(0, len(windows) - 1))
    for wrong in (windows[:at] + windows[at + 1 :], [*windows, windows[at]], [windows[0]] * len(windows)):
        if wrong != windows:
            with pytest.raises(ValueError, match=r"missing or doubled|not of one recording"):
                join_windows(wrong)


def test_windows_of_two_recordings_are_refused():
    shard = one_window(DecodedWindow(0.0, 1.0), [])
    with pytest.raises(ValueError, match="not of one recording"):
        join_windows([row(shard, 0), replace(row(shard, 0), id="other")])


def one_window(decoded: DecodedWindow, outcomes: list[Hypothesis | Failure], end_s: float = 60.0) -> TranscribedShard:
    """A window from 100 s on, with a chunk of 10 s per outcome."""
    window = Window(Recording("r", "file:///r.wav"), 0, 1, 100.0, 100.0 + end_s)
    chunks = [Chunk(0, n, 100.0 + 10 * n, 110.0 + 10 * n, 160_000 * n, 160_000) for n in range(len(outcomes))]
    return TranscribedShard(
        Shard("0-0", 0, (window,), end_s), (decoded,), tuple(chunks), tuple(outcomes), EngineStats()
    )


def test_a_hypothesis_without_segments_is_one_segment_on_the_recordings_clock():
    heard = Hypothesis(" Yes. ", language="en", confidence=0.9, words=(Word("Yes.", 0.5, 0.9),))
    segments, spans, failure = window_segments(0, one_window(DecodedWindow(100.0, 110.0), [heard]))
    word = Word("Yes.", 100.5, 100.9)
    assert segments == (Segment(0, 100.0, 110.0, "Yes.", language="en", confidence=0.9, words=(word,)),)
    assert (spans, failure) == ((), None)


def test_a_row_that_names_a_channel_names_it_in_its_segments():
    shard = one_window(DecodedWindow(100.0, 110.0), [Hypothesis("Yes.")])
    window = replace(shard.shard.windows[0], recording=Recording("r", "file:///r.wav", channel=1))
    shard = replace(shard, shard=replace(shard.shard, windows=(window,)))
    assert [segment.channel for segment in window_segments(0, shard)[0]] == [1]


def test_a_word_ends_no_later_than_the_next_one_begins():
    words = (
        Word("a", 1.0, 3.0),
        Word("b"),
        Word("c", None, 2.5),
        Word("d", 2.0, 1.5),
        Word("e", 1.8, 9.0),
        Word("f", None, 4.0),
    )
    (segment,), _, _ = window_segments(
        0, one_window(DecodedWindow(100.0, 110.0), [Hypothesis("a b c d e f", words=words)])
    )
    assert [(word.word, word.start_s, word.end_s) for word in segment.words] == [
        ("a", 101.0, 102.0),
        ("b", None, None),
        ("c", None, 102.0),
        ("d", 102.0, 102.0),
        ("e", 102.0, 109.0),
        ("f", None, 109.0),
    ]


def test_silence_failure_and_gaps_between_segments_become_spans():
    inner = (Segment(7, 1.0, 4.0, "one"), Segment(9, 4.01, 9.0, "two"))
    outcomes = [Hypothesis("", stop_reason="silence"), Hypothesis("one two", segments=inner), LOST]
    segments, spans, failure = window_segments(0, one_window(DecodedWindow(100.0, 130.0), outcomes))
    assert [(segment.id, segment.start_s, segment.end_s) for segment in segments] == [
        (0, 111.0, 114.0),
        (1, 114.01, 119.0),
    ]
    assert spans == (Span(100.0, 111.0, "non_speech"), Span(119.0, 120.0, "non_speech"), Span(120.0, 130.0, "failed"))
    assert failure == LOST


def test_a_window_that_could_not_be_read_is_declared_failed_as_planned():
    failure = Failure("decode", "not_audio", "No known container.")
    found = window_segments(0, one_window(DecodedWindow(100.0, 100.0, failure=failure), []))
    assert found == ((), (Span(100.0, 160.0, "failed"),), failure)


def test_a_lost_window_takes_what_its_neighbours_left():
    """The neighbours cut at 57 s and 124 s; the lost window was planned from 60 s to 120 s."""
    whole = row(one_window(DecodedWindow(0.0, 57.0), []), 0)
    first = replace(whole, window_count=3, spans=(Span(0.0, 57.0, "non_speech"),), duration_s=57.0)
    lost = replace(first, window_index=1, status="failed", spans=(Span(60.0, 120.0, "failed"),), duration_s=0.0)
    last = replace(first, window_index=2, spans=(Span(124.0, 180.0, "non_speech"),), duration_s=56.0)
    joined = join_windows([lost, last, first])
    expected = (Span(0.0, 57.0, "non_speech"), Span(57.0, 124.0, "failed"), Span(124.0, 180.0, "non_speech"))
    assert (joined.spans, joined.status) == (expected, "partial")
    spoken = replace(last, spans=(), segments=(Segment(0, 124.0, 180.0, "Yes."),))
    assert join_windows([lost, spoken, first]).spans == expected[:2]


@pytest.mark.parametrize(
    ("language", "texts", "expected"),
    [
        ("en", [" Ever tried.", "", " Ever failed. "], "Ever tried. Ever failed."),
        ("ja", ["今日は", "いい天気です。", "はい"], "今日はいい天気です。はい"),
        ("zh-CN", ["我用", "Python 3", "写代码"], "我用Python 3写代码"),
        ("zh", ["OK", "let us go"], "OK let us go"),
        ("yue", ["你好", "呀"], "你好呀"),
        ("th", ["สวัสดี", "ครับ"], "สวัสดีครับ"),
        ("ko", ["안녕", "하세요"], "안녕 하세요"),
        (None, ["你好", "吗"], "你好吗"),
        (None, ["hello", "there"], "hello there"),
        ("de", [], ""),
    ],
)
def test_texts_are_joined_as_their_language_writes(language, texts, expected):
    segments = [Segment(number, number, number + 1, text) for number, text in enumerate(texts)]
    assert transcript_text(segments, language) == expected
