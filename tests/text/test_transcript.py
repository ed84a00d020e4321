"""From a transcribed shard to rows: status, language, scores."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.config import ScoreConfig
from pipeline.records import (
    Chunk,
    DecodedWindow,
    DecodeReport,
    EngineStats,
    Failure,
    Hypothesis,
    Recording,
    Segment,
    Shard,
    TranscribedShard,
    Window,
)
from pipeline.text.transcript import transcripts_of

RATE = 16_000
HEARD = Hypothesis("Two words", "en")
BROKEN = Failure("transcribe", "engine_error", "It broke.")


def shard(*outcomes: Hypothesis | Failure, window: DecodedWindow | None = None, **row: object) -> TranscribedShard:
    """One recording of 10 s per outcome, each a chunk."""
    recording = Recording("a", "/a", **row)  # type: ignore[arg-type]
    length_s = 10.0 * len(outcomes)
    chunks = tuple(Chunk(0, n, 10.0 * n, 10.0 * (n + 1), n * 10 * RATE, 10 * RATE) for n in range(len(outcomes)))
    planned = Shard("00000-aa", 0, (Window(recording, 0, 1, 0.0, length_s),), length_s)
    return TranscribedShard(
        planned,
        (window or DecodedWindow(0.0, length_s),),
        chunks,
        outcomes,
        EngineStats(2.0, 0.0, length_s, length_s, 1),
    )


def status(made: TranscribedShard) -> str:
    (row,) = transcripts_of(made, ScoreConfig())
    return row.status


def test_status_says_how_much_of_the_recording_has_text() -> None:
    assert status(shard(HEARD, HEARD)) == "ok"
    assert status(shard(HEARD, BROKEN)) == "partial"
    assert status(shard(BROKEN, BROKEN)) == "failed"
    gone = DecodedWindow(0.0, 0.0, failure=Failure("decode", "not_audio", "It is no audio."))
    assert status(shard(window=gone)) == "failed"
    cut = DecodedWindow(0.0, 20.0, failure=Failure("decode", "truncated", "It ends."))
    assert status(shard(HEARD, HEARD, window=cut)) == "partial"
    lossy = DecodedWindow(0.0, 10.0, report=DecodeReport(warnings=("decode_errors:3",)))
    assert status(shard(HEARD, window=lossy)) == "partial"
    assert status(shard()) == "ok"


def test_a_reference_is_scored_and_its_absence_is_not() -> None:
    (row,) = transcripts_of(shard(HEARD, reference_text="two bad words"), ScoreConfig())
    assert row.word_errors is not None
    assert (row.word_errors.deletions, row.word_errors.reference_length) == (1, 3)
    assert row.normalizer
    (row,) = transcripts_of(shard(HEARD), ScoreConfig())
    assert row.word_errors is None
    (row,) = transcripts_of(shard(BROKEN, reference_text="two words"), ScoreConfig())
    assert row.word_errors is None, "a failed row has no text to score"


def test_windows_of_a_longer_recording_are_scored_when_joined() -> None:
    made = shard(HEARD, reference_text="two words")
    window = replace(made.shard.windows[0], count=2)
    (row,) = transcripts_of(replace(made, shard=replace(made.shard, windows=(window,))), ScoreConfig())
    assert row.word_errors is None


def test_the_language_is_the_rows_or_the_one_heard_most() -> None:
    german = Hypothesis("Zwei Wörter", "de")
    (row,) = transcripts_of(shard(HEARD, german, german), ScoreConfig())
    assert row.language == "de"
    (row,) = transcripts_of(shard(german, language="nl"), ScoreConfig())
    assert row.language == "nl"


def test_a_kept_draft_flags_its_own_segments() -> None:
    inner = (Segment(0, 0.0, 2.0, "One", flags=("loud",)), Segment(1, 2.0, 4.0, "two"))
    drafts = [Hypothesis("Short", stop_reason="draft"), Hypothesis("One two", stop_reason="draft", segments=inner)]
    (row,) = transcripts_of(shard(HEARD, *drafts), ScoreConfig())
    assert [(s.text, s.flags) for s in row.segments] == [
        ("Two words", ()),
        ("Short", ("draft",)),
        ("One", ("loud", "draft")),
        ("two", ("draft",)),
    ]
    assert row.status == "ok"


def test_what_the_engine_warns_of_stands_beside_what_the_decoder_does() -> None:
    told = replace(HEARD, warnings=("keywords_ignored",))
    clipped = DecodedWindow(0.0, 30.0, report=DecodeReport(warnings=("clipped",)))
    (row,) = transcripts_of(shard(told, BROKEN, told, window=clipped), ScoreConfig())
    assert row.warnings == ("clipped", "keywords_ignored")
    (row,) = transcripts_of(shard(told), ScoreConfig())
    assert row.status == "ok"


def test_a_row_has_the_warnings_of_its_own_chunks() -> None:
    made = shard(HEARD, replace(HEARD, warnings=("keywords_ignored",)))
    (window,) = made.shard.windows
    windows = (window, replace(window, recording=Recording("b", "/b")))
    chunks = (made.chunks[0], replace(made.chunks[1], window=1))
    both = replace(made, shard=replace(made.shard, windows=windows), windows=made.windows * 2, chunks=chunks)
    assert [row.warnings for row in transcripts_of(both, ScoreConfig())] == [(), ("keywords_ignored",)]


def test_engine_seconds_are_shared_by_audio() -> None:
    (row,) = transcripts_of(shard(HEARD, HEARD), ScoreConfig())
    assert row.engine_s == pytest.approx(2.0)
    assert row.rtfx == pytest.approx(10.0)
