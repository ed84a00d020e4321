"""From a transcribed shard to transcript rows: stitch, judge, score. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from pipeline.config import FlagsConfig, ScoreConfig
from pipeline.engines.requests import PLAIN, Wish
from pipeline.metrics.wer import score
from pipeline.records import DecodedWindow, Failure, Hypothesis, Status, TranscribedShard, Transcript, Window
from pipeline.text.flags import DEFAULT_LIMITS, row_flags
from pipeline.text.stitch import transcript_text, window_segments

# A decoder's own word that samples were lost: the text may lack something, so the row is not "ok".
LOSSY_WARNINGS = ("decode_errors", "longer_than_its_header")


def transcripts_of(
    shard: TranscribedShard,
    scoring: ScoreConfig,
    limits: FlagsConfig = DEFAULT_LIMITS,
    allowed_languages: Collection[str] = (),
    asked: Wish = PLAIN,
) -> list[Transcript]:
    """One row per window of the shard, in order, flagged; windows that are whole recordings are scored.

    `asked`: what the config asks for recordings that say nothing else.
    """
    rows = [_row(shard, position, limits, allowed_languages, asked) for position in range(len(shard.windows))]
    return [scored(row, scoring) if row.window_count == 1 else row for row in rows]


def scored(row: Transcript, scoring: ScoreConfig) -> Transcript:
    """The row with its edit counts; unchanged where there is nothing to compare with."""
    if row.reference_text is None or row.status == "failed":
        return row
    words, chars, normalizer = score(row.reference_text, row.text, row.text_language, scoring.normalizer)
    return replace(row, word_errors=words, char_errors=chars, normalizer=normalizer)


def _row(
    shard: TranscribedShard, position: int, limits: FlagsConfig, allowed_languages: Collection[str], asked: Wish
) -> Transcript:
    planned, decoded = shard.shard.windows[position], shard.windows[position]
    segments, spans, chunk_failure = window_segments(position, shard, limits, allowed_languages)
    failure = decoded.failure or chunk_failure
    language = _language(shard, position, planned)
    wish = asked.of_row(planned.recording.task, language, planned.recording.target_language)
    shard_audio_s = sum(chunk.audio_s for chunk in shard.chunks)
    audio_s = sum(chunk.audio_s for chunk in shard.chunks if chunk.window == position)
    share = audio_s / shard_audio_s if shard_audio_s else 0.0
    return Transcript(
        id=planned.recording.id,
        uri=planned.recording.uri,
        status=_status(decoded, failure, bool(segments)),
        offset_s=planned.recording.offset_s,
        duration_s=decoded.end_s - decoded.start_s,
        text=transcript_text(segments, wish.target or language),
        segments=segments,
        spans=spans,
        failure=failure,
        language=language,
        reference_text=planned.recording.reference_text,
        warnings=(*decoded.report.warnings, *_engine_warnings(shard, position)),
        flags=row_flags(segments, spans),
        word_errors=None,
        char_errors=None,
        normalizer=None,
        decode_s=decoded.report.decode_s,
        engine_s=shard.stats.engine_s * share,
        window_index=planned.index,
        window_count=planned.count,
        window_start_s=decoded.start_s,
        extra=planned.recording.extra,
        task=wish.task,
        target_language=wish.target,
    )


def _status(decoded: DecodedWindow, failure: Failure | None, has_text: bool) -> Status:
    if failure and not has_text and (decoded.end_s <= decoded.start_s or failure.stage == "transcribe"):
        return "failed"
    if failure or any(warning.startswith(LOSSY_WARNINGS) for warning in decoded.report.warnings):
        return "partial"
    return "ok"


def _engine_warnings(shard: TranscribedShard, position: int) -> Iterator[str]:
    """What the engine says about the window's chunks, each thing once."""
    heard = zip(shard.chunks, shard.outcomes, strict=True)
    found = (one for chunk, one in heard if chunk.window == position and isinstance(one, Hypothesis))
    yield from dict.fromkeys(warning for hypothesis in found for warning in hypothesis.warnings)


def _language(shard: TranscribedShard, position: int, planned: Window) -> str | None:
    """The row's own language, else the one most of its audio was heard as."""
    if planned.recording.language:
        return planned.recording.language
    heard: dict[str, float] = {}
    for chunk, outcome in zip(shard.chunks, shard.outcomes, strict=True):
        if chunk.window == position and isinstance(outcome, Hypothesis) and outcome.language:
            heard[outcome.language] = heard.get(outcome.language, 0.0) + chunk.audio_s
    return max(heard, key=lambda language: heard[language]) if heard else None
