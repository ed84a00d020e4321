"""From hypotheses to the text of a window, and from windows to the text of a recording. Pure.

Keeps every word an engine gave, moves it to the recording's clock and flags what is doubtful; scores nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import merge

from pipeline.config import FlagsConfig
from pipeline.records import (
    SAMPLE_RATE_HZ,
    Chunk,
    Failure,
    Hypothesis,
    Segment,
    Span,
    TranscribedShard,
    Transcript,
    Word,
)
from pipeline.text.flags import DEFAULT_LIMITS, chunk_flags, in_order, is_unheard, judged
from pipeline.text.speakers import with_speakers
from pipeline.text.timeline import audit

_UNSPACED_LANGUAGES = frozenset({"ja", "zh", "yue", "th"})
# Thai; CJK with kana and punctuation; compatibility ideographs; full-width forms; the rarer ideographs.
_UNSPACED_CHARACTER = re.compile(
    "[\u0e00-\u0e7f\u2e80-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff]"
)
_SAME_TIME_S = 0.5 / SAMPLE_RATE_HZ  # sums of floats may differ by less than half a sample


def window_segments(
    window_position: int,
    shard: TranscribedShard,
    limits: FlagsConfig = DEFAULT_LIMITS,
    allowed_languages: Collection[str] = (),
) -> tuple[tuple[Segment, ...], tuple[Span, ...], Failure | None]:
    """What was said in a window, what is not in a segment, and the first failure.

    Segments are numbered from 0, in the recording's seconds, sorted by start, clipped to their chunk, and flagged. Those of a
    recording's channels are merged: who begins first comes first, of two that begin at once the lower channel. An empty
    hypothesis becomes an unheard span where the chunk holds speech, else non-speech, as what an engine's own segments leave
    out of a chunk; a failed chunk becomes a failed span. Speaker labels are the recording's, or the names that the
    manifest gives for them. Chunks stand in the order of their windows.
    """
    planned, decoded = shard.shard.windows[window_position], shard.windows[window_position]
    first = bisect_left(shard.chunks, window_position, key=lambda chunk: chunk.window)
    last = bisect_left(shard.chunks, window_position + 1, key=lambda chunk: chunk.window)
    channels: dict[int | None, list[Segment]] = {}
    spans = list(decoded.spans)
    failure = decoded.failure
    if failure and decoded.end_s <= decoded.start_s < planned.end_s:
        spans.append(Span(planned.start_s, planned.end_s, "failed"))
    for chunk, outcome in zip(shard.chunks[first:last], shard.outcomes[first:last], strict=True):
        is_first = planned.index == 0 and chunk.channel not in channels
        of_channel = channels.setdefault(chunk.channel, [])
        if isinstance(outcome, Failure):
            failure = failure or outcome
            spans.append(Span(chunk.start_s, chunk.end_s, "failed", chunk.channel))
            continue
        of_chunk = chunk_flags(chunk, outcome, limits)
        placed = _placed(chunk, outcome, planned.recording.channel)
        numbered_from_s = None if is_first else chunk.start_s
        named = with_speakers(placed, numbered_from_s, planned.recording.speakers, chunk.channel)
        heard = [judged(_flagged(segment, of_chunk), limits, allowed_languages) for segment in named]
        of_channel += heard
        if not heard and is_unheard(chunk, limits):
            spans.append(Span(chunk.start_s, chunk.end_s, "unheard", chunk.channel))
            continue
        gaps = _gaps(chunk.start_s, chunk.end_s, heard)
        spans += [Span(start_s, end_s, "non_speech", chunk.channel) for start_s, end_s in gaps]
    segments = in_turn(segment for of_channel in channels.values() for segment in of_channel)
    return numbered(segments), merged_spans(spans), failure


def in_turn(segments: Iterable[Segment]) -> Iterator[Segment]:
    """Segments of several channels, each in its order, merged by their starts; of equal starts the lower channel first.

    Within a channel nothing is sorted: engines give segments of one start in the order in which they were said.
    """
    channels: dict[int, list[Segment]] = {}
    for segment in segments:
        channels.setdefault(-1 if segment.channel is None else segment.channel, []).append(segment)
    return merge(*(channels[channel] for channel in sorted(channels)), key=lambda segment: segment.start_s)


def join_windows(rows: Sequence[Transcript]) -> Transcript:
    """All windows of one recording, in any order, as one row; edit counts are left for scoring the whole.

    Raises ValueError when a window is missing, doubled, or of another recording.
    """
    if len({(row.id, row.window_count) for row in rows}) != 1:
        raise ValueError(f"these windows are not of one recording: {sorted({row.id for row in rows})}")
    rows = sorted(rows, key=lambda row: row.window_index)
    if [row.window_index for row in rows] != list(range(rows[0].window_count)):
        wrong = Counter(range(rows[0].window_count))
        wrong.subtract(row.window_index for row in rows)
        raise ValueError(f"windows of {rows[0].id!r} missing or doubled: {[index for index in wrong if wrong[index]]}")
    language = _main_language(rows)
    statuses = {row.status for row in rows}
    return replace(
        rows[0],
        status=rows[0].status if len(statuses) == 1 else "partial",
        duration_s=sum(row.duration_s for row in rows),
        text=_joined((row.text for row in rows), rows[0].target_language or language),
        segments=numbered(segment for row in rows for segment in row.segments),
        spans=_joined_spans(rows),
        failure=next((row.failure for row in rows if row.failure), None),
        language=language,
        reference_text=next((row.reference_text for row in rows if row.reference_text is not None), None),
        warnings=tuple(dict.fromkeys(warning for row in rows for warning in row.warnings)),
        flags=in_order(flag for row in rows for flag in row.flags),
        word_errors=None,
        char_errors=None,
        normalizer=None,
        decode_s=sum(row.decode_s for row in rows),
        engine_s=sum(row.engine_s for row in rows),
        window_index=0,
        window_count=1,
        window_start_s=0.0,
    )


def transcript_text(segments: Iterable[Segment], language: str | None) -> str:
    """The segments as running text: single spaces between them, none beside the script of a language that has none."""
    return _joined((segment.text for segment in segments), language)


def _placed(chunk: Chunk, hypothesis: Hypothesis, channel: int | None) -> Iterator[Segment]:
    """The hypothesis on the recording's clock."""
    whole = Segment(
        id=0,
        start_s=0.0,
        end_s=chunk.end_s - chunk.start_s,
        text=hypothesis.text,
        confidence=hypothesis.confidence,
        words=hypothesis.words,
    )
    reached_s = chunk.start_s
    for segment in hypothesis.segments or (whole,):
        text = segment.text.strip()
        if not text:
            continue
        reached_s = start_s = _clip(chunk.start_s + segment.start_s, reached_s, chunk.end_s)
        end_s = _clip(chunk.start_s + segment.end_s, start_s, chunk.end_s)
        yield replace(
            segment,
            start_s=start_s,
            end_s=end_s,
            text=text,
            language=segment.language or hypothesis.language,
            confidence=hypothesis.confidence if segment.confidence is None else segment.confidence,
            channel=_known(segment.channel, chunk.channel, channel),
            words=tuple(_placed_words(segment.words, chunk.start_s, start_s, end_s)),
        )


def _known(*channels: int | None) -> int | None:
    """The first that is not None."""
    return next((channel for channel in channels if channel is not None), None)


def _flagged(segment: Segment, flags: tuple[str, ...]) -> Segment:
    return replace(segment, flags=in_order((*segment.flags, *flags)))


def _placed_words(words: Sequence[Word], offset_s: float, start_s: float, end_s: float) -> Iterator[Word]:
    """The words on the recording's clock, within [start_s, end_s]: no time lies before the one it follows.

    Where a word is said to end after the next one begins, the beginning is believed: engines find it better.
    """
    reached_s = start_s
    starts: list[float | None] = []
    for word in words:
        reached_s = reached_s if word.start_s is None else _clip(offset_s + word.start_s, reached_s, end_s)
        starts.append(None if word.start_s is None else reached_s)
    next_start_s = end_s
    latest_ends: list[float] = []
    for start in reversed(starts):
        latest_ends.append(next_start_s)
        next_start_s = next_start_s if start is None else start
    reached_s = start_s
    for word, start, latest_end_s in zip(words, starts, reversed(latest_ends), strict=True):
        reached_s = reached_s if start is None else start
        end = None if word.end_s is None else _clip(offset_s + word.end_s, reached_s, latest_end_s)
        reached_s = reached_s if end is None else end
        yield replace(word, start_s=start, end_s=end)


def _clip(time_s: float, low_s: float, high_s: float) -> float:
    return max(low_s, min(time_s, high_s))


def numbered(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """The segments with their positions as ids."""
    return tuple(replace(segment, id=number) for number, segment in enumerate(segments))


def _gaps(start_s: float, end_s: float, pieces: Iterable[Segment | Span]) -> list[tuple[float, float]]:
    problems = audit(start_s, end_s, ((piece.start_s, piece.end_s) for piece in pieces))
    return [(problem.start_s, problem.end_s) for problem in problems if problem.kind == "gap"]


def merged_spans(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The spans sorted by time, touching spans of one kind and channel as one."""
    merged: list[Span] = []
    latest: dict[int | None, int] = {}  # channel → position of its latest span
    for span in sorted(spans, key=lambda span: (span.start_s, span.end_s)):
        at = latest.get(span.channel, -1)
        if at >= 0 and merged[at].kind == span.kind and span.start_s <= merged[at].end_s + _SAME_TIME_S:
            merged[at] = replace(merged[at], end_s=max(merged[at].end_s, span.end_s))
        else:
            latest[span.channel] = len(merged)
            merged.append(span)
    return tuple(merged)


def _joined_spans(rows: Sequence[Transcript]) -> tuple[Span, ...]:
    """The spans of all windows. A window that could not be read never cut its seams: it lost what its neighbours lack."""
    read = [row for row in rows if row.duration_s > 0]
    spans = [span for row in read for span in row.spans]
    if len(read) < len(rows):
        segments = [segment for row in read for segment in row.segments]
        planned_end_s = max((span.end_s for row in rows for span in row.spans), default=0.0)
        end_s = max([planned_end_s, *(segment.end_s for segment in segments)])
        spans += [Span(start_s, stop_s, "failed") for start_s, stop_s in _gaps(0.0, end_s, [*segments, *spans])]
    return merged_spans(spans)


def _main_language(rows: Sequence[Transcript]) -> str | None:
    """The language of most of the audio; of equals, the first heard."""
    heard_s: dict[str, float] = {}
    for row in rows:
        if row.language:
            heard_s[row.language] = heard_s.get(row.language, 0.0) + row.duration_s
    return max(heard_s, key=lambda language: heard_s[language]) if heard_s else None


def _joined(texts: Iterable[str], language: str | None) -> str:
    may_touch = language is None or re.split("[-_]", language.lower())[0] in _UNSPACED_LANGUAGES
    parts: list[str] = []
    for text in filter(None, map(str.strip, texts)):
        touches = may_touch and parts and (_UNSPACED_CHARACTER.match(parts[-1][-1]) or _UNSPACED_CHARACTER.match(text))
        parts += [text] if touches or not parts else [" ", text]
    return "".join(parts)
