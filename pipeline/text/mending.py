"""A transcript with stretches of it heard again: what was better replaced, the rest untouched. Pure.

Knows the two hypotheses and `choice`; not which retry they came from, nor where they are stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.engines.requests import primary_language
from pipeline.records import Segment, Span, Status, Transcript, Word
from pipeline.text.choice import RETRIED, Choice, Guard, Heard, choose
from pipeline.text.flags import in_order, row_flags
from pipeline.text.stitch import in_turn, merged_spans, numbered, transcript_text
from pipeline.text.stretches import SAME_TIME_S, channels_of, is_heard_on
from pipeline.text.timeline import audit
from pipeline.text.transcript import LOSSY_WARNINGS


@dataclass(frozen=True, slots=True)
class HeardAgain:
    """A stretch and what the second engine made of it. `row` has times from the stretch's start; `end_s` None: all of it;
    `channel` None: all that is heard of the recording."""

    start_s: float
    end_s: float | None
    row: Transcript
    engine: str
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Both hypotheses of a stretch, on the recording's clock, and which of them stands."""

    first: Heard
    second: Heard
    choice: Choice


def mend(row: Transcript, again: HeardAgain, engine: str, guard: Guard) -> tuple[Transcript, Verdict]:
    """The row with the stretch as it should stand, and why; the edit counts are the old ones until it is scored again.

    `engine`: who heard the row, for the segments that no retry has replaced.
    """
    if again.end_s is None:
        return _mend_whole(row, again, guard)
    end_s = again.end_s
    inside = [segment for segment in row.segments if _is_of(segment, again, end_s)]
    first = _first(row, inside, again, end_s, engine)
    of_channel = [segment for segment in row.segments if segment.channel == again.channel]
    second = _second(again, end_s, first, inside if again.channel is None else of_channel)
    if any(one.start_s < again.start_s - SAME_TIME_S or one.end_s > end_s + SAME_TIME_S for one in inside):
        return row, Verdict(first, second, Choice(False, "moved"))
    choice = choose(first, second, guard)
    mended = _replaced(row, again, end_s, second.segments) if choice.second else row
    return mended, Verdict(first, second, choice)


def _mend_whole(row: Transcript, again: HeardAgain, guard: Guard) -> tuple[Transcript, Verdict]:
    """A recording of which nothing was decoded: the second row as a whole, or one try more."""
    found = again.row
    first = Heard(row.segments, failed=row.status == "failed")
    segments = tuple(_marked(found.segments))
    second = Heard(segments, _is_unheard(found.spans), found.status == "failed", again.engine)
    choice = choose(first, second, guard)
    if choice.second:
        flags = row_flags(segments, found.spans)
        own = {name: getattr(row, name) for name in ("id", "uri", "offset_s", "reference_text", "extra")}
        return replace(found, **own, segments=segments, flags=flags), Verdict(first, second, choice)
    if row.failure and second.failed:
        row = replace(row, failure=replace(row.failure, attempts=row.failure.attempts + 1))
    return row, Verdict(first, second, choice)


def _first(row: Transcript, inside: Sequence[Segment], again: HeardAgain, end_s: float, engine: str) -> Heard:
    touched = [span for span in row.spans if _is_of(span, again, end_s)]
    failed = not inside and any(span.kind == "failed" for span in touched)
    mixed = any(RETRIED in segment.flags for segment in inside)
    return Heard(tuple(inside), _is_unheard(touched), failed, None if mixed else engine)


def _second(again: HeardAgain, end_s: float, first: Heard, speakers: Sequence[Segment]) -> Heard:
    """`speakers`: segments that tell who speaks there."""
    found = again.row
    segments = tuple(_with_speaker(_marked(_moved(found.segments, again.start_s, end_s)), speakers))
    # Of a stretch that failed every part is a gain; in the place of a text half a text is none.
    failed = found.status == "failed" or (_lost_s(found.spans) > SAME_TIME_S and not (first.failed and segments))
    return Heard(segments, _is_unheard(found.spans), failed, again.engine)


def _lost_s(spans: Iterable[Span]) -> float:
    """Seconds that failed, on whatever channel."""
    lost_s, reached_s = 0.0, -math.inf
    for span in sorted((span for span in spans if span.kind == "failed"), key=lambda span: span.start_s):
        lost_s += max(0.0, span.end_s - max(span.start_s, reached_s))
        reached_s = max(reached_s, span.end_s)
    return lost_s


def _replaced(row: Transcript, again: HeardAgain, end_s: float, segments: Sequence[Segment]) -> Transcript:
    """The row with the stretch's segments and spans in the place of its own."""
    kept = [segment for segment in row.segments if not _is_of(segment, again, end_s)]
    spans = [*_outside(row.spans, again, end_s), *_spans(again, end_s, segments)]
    # No sorting: engines give segments of one start, or without length, in the order in which they were said.
    before = [segment for segment in kept if segment.start_s < again.start_s + SAME_TIME_S]
    segments = numbered(in_turn([*before, *segments, *kept[len(before) :]]))
    whole = merged_spans(spans)
    language = _language(row.language or again.row.language, segments)
    lost_s = _lost_s(whole)
    recovered = _lost_s(row.spans) > 0 and not lost_s
    reached_s = max([*(one.end_s for one in segments), *(span.end_s for span in whole)])
    warnings = _warnings(row, again.row)
    return replace(
        row,
        status=_status(warnings) if recovered else ("partial" if row.status == "failed" and segments else row.status),
        warnings=warnings,
        failure=None if recovered else row.failure,
        # What is not lost was decoded.
        duration_s=max(row.duration_s, reached_s - lost_s) if _lost_s(row.spans) else row.duration_s,
        language=language,
        text=transcript_text(segments, row.target_language or language),
        segments=segments,
        spans=whole,
        flags=row_flags(segments, whole),
    )


def _status(warnings: Iterable[str]) -> Status:
    """Of a row without a failure."""
    return "partial" if any(warning.startswith(LOSSY_WARNINGS) for warning in warnings) else "ok"


def _warnings(row: Transcript, second: Transcript) -> tuple[str, ...]:
    """Those of both; but what was lost in decoding is new only where the first try had decoded nothing."""
    new = (
        second.warnings
        if _lost_s(row.spans)
        else [one for one in second.warnings if not one.startswith(LOSSY_WARNINGS)]
    )
    return tuple(dict.fromkeys((*row.warnings, *new)))


def _language(before: str | None, segments: Iterable[Segment]) -> str | None:
    """The row's language, unless most of what is in it now was heard as another."""
    heard_s: dict[str, float] = {}
    for segment in segments:
        if segment.language:
            heard_s[segment.language] = heard_s.get(segment.language, 0.0) + segment.end_s - segment.start_s
    most = max(heard_s, key=lambda language: heard_s[language]) if heard_s else before
    return before if before and most and primary_language(before) == primary_language(most) else most


def _spans(again: HeardAgain, end_s: float, segments: Sequence[Segment]) -> Iterator[Span]:
    """The second engine's spans in the stretch; what it leaves open by a rounding is no speech."""
    found: list[Span] = []
    for span in again.row.spans:
        start_s = max(again.start_s, again.start_s + span.start_s)
        stop_s = min(end_s, again.start_s + span.end_s)
        if stop_s > start_s:
            channel = span.channel if again.channel is None else again.channel
            found.append(replace(span, start_s=start_s, end_s=stop_s, channel=channel))
    yield from found
    for channel in channels_of(again.row) if again.channel is None else (again.channel,):
        pieces = [(one.start_s, one.end_s) for one in segments if is_heard_on(one, channel)]
        pieces += [(one.start_s, one.end_s) for one in found if is_heard_on(one, channel)]
        for problem in audit(again.start_s, end_s, pieces, tolerance_s=0.0):
            if problem.kind == "gap":
                yield Span(problem.start_s, problem.end_s, "non_speech", channel)


def _outside(spans: Iterable[Span], again: HeardAgain, end_s: float) -> Iterator[Span]:
    """The spans without what lies in the stretch."""
    for span in spans:
        if not is_heard_on(span, again.channel):
            yield span
            continue
        before, after = (span.start_s, min(span.end_s, again.start_s)), (max(span.start_s, end_s), span.end_s)
        for low_s, high_s in (before, after):
            if high_s > low_s:
                yield replace(span, start_s=low_s, end_s=high_s)


def _moved(segments: Iterable[Segment], offset_s: float, end_s: float) -> Iterator[Segment]:
    """On the recording's clock, inside the stretch."""

    def at(time_s: float | None) -> float | None:
        return None if time_s is None else min(offset_s + time_s, end_s)

    for segment in segments:
        words = tuple(replace(word, start_s=at(word.start_s), end_s=at(word.end_s)) for word in segment.words)
        start_s, stop_s = min(offset_s + segment.start_s, end_s), min(offset_s + segment.end_s, end_s)
        yield replace(segment, start_s=start_s, end_s=stop_s, words=words)


def _marked(segments: Iterable[Segment]) -> Iterator[Segment]:
    return (replace(segment, flags=in_order((RETRIED, *segment.flags))) for segment in segments)


def _with_speaker(segments: Iterable[Segment], first: Sequence[Segment]) -> Iterator[Segment]:
    """An engine counts speakers anew in every stretch: the recording's one speaker there is kept, others are not known."""
    speakers = {segment.speaker for segment in first}
    speaker = speakers.pop() if len(speakers) == 1 else None

    def named(word: Word) -> Word:
        return replace(word, speaker=speaker if word.speaker else None)

    return (replace(one, speaker=speaker, words=tuple(map(named, one.words))) for one in segments)


def _is_unheard(spans: Iterable[Span]) -> bool:
    return any(span.kind == "unheard" for span in spans)


def _is_of(piece: Segment | Span, again: HeardAgain, end_s: float) -> bool:
    return is_heard_on(piece, again.channel) and _touches(piece, again.start_s, end_s)


def _touches(piece: Segment | Span, start_s: float, end_s: float) -> bool:
    """Whether more than a rounding of the piece lies in the stretch; a piece without length, if it is in its midst."""
    if piece.end_s - piece.start_s <= SAME_TIME_S:
        return start_s + SAME_TIME_S < piece.start_s < end_s - SAME_TIME_S
    return min(piece.end_s, end_s) - max(piece.start_s, start_s) > SAME_TIME_S
