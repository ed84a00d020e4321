"""Which stretches of a transcript a second engine should hear. Pure.

A stretch begins and ends where segments or spans of the transcript do, so that it can be replaced without touching the rest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from pipeline.records import SAMPLE_RATE_HZ, Segment, Span, Transcript

SAME_TIME_S = 0.5 / SAMPLE_RATE_HZ  # sums of floats may differ by less than half a sample
SHORTEST_S = 0.1  # an engine hears nothing in less
LONGEST_PAUSE_S = 1.0  # between neighbours that are heard as one


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a recording, or of one of its channels, to be heard again.

    `end_s` None: all of a recording of which nothing was decoded. `channel` None: all that is heard of the recording.
    """

    start_s: float
    end_s: float | None
    kind: Literal["flagged", "failed"]
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class _Group:
    """Segments that overlap, or one segment, or a span that failed or was unheard: what can only be replaced together."""

    start_s: float
    end_s: float
    wanted: bool


def channels_of(row: Transcript) -> tuple[int | None, ...]:
    """The channels of a transcript that was split, each a timeline of its own; (None,) of any other."""
    found = {segment.channel for segment in row.segments if segment.channel is not None}
    apart = {span.channel for span in row.spans if span.channel is not None}
    return tuple(sorted(found | apart)) if apart or len(found) > 1 else (None,)


def flagged_stretches(
    row: Transcript,
    flags: Collection[str],
    longest_s: float,
    tried: Sequence[tuple[float, float]] = (),
    channel: int | None = None,
) -> list[Stretch]:
    """Segments with one of `flags`, and unheard spans if it has `empty_on_speech`; in order, disjoint. Of one of the
    transcript's `channels_of`.

    Neighbours are one stretch while it is at most `longest_s`; a longer segment is a stretch by itself. What lies in a
    stretch that was tried before is left out.
    """
    found: list[Stretch] = []
    starts_s = sorted(start_s for start_s, _ in tried)
    ends_s = list(accumulate((end_s for _, end_s in sorted(tried)), max))  # the furthest that one so early reaches
    before = False  # whether the group before this one is wanted too
    for group in _groups(row, flags, channel):
        earlier = bisect_right(starts_s, group.start_s + SAME_TIME_S)
        was_tried = earlier > 0 and group.end_s <= ends_s[earlier - 1] + SAME_TIME_S
        wanted = group.wanted and not was_tried
        if wanted and before and _joins(found[-1], group, longest_s):
            found[-1] = replace(found[-1], end_s=group.end_s)
        elif wanted:
            found.append(Stretch(group.start_s, group.end_s, "flagged", channel))
        before = wanted
    return [stretch for stretch in found if _seconds(stretch) >= SHORTEST_S]


def failed_stretches(row: Transcript) -> list[Stretch]:
    """The failed spans, or the whole recording if nothing of it was decoded."""
    if row.status == "failed" and row.duration_s <= 0:
        return [Stretch(0.0, None, "failed")]
    spans = [Stretch(span.start_s, span.end_s, "failed", span.channel) for span in row.spans if span.kind == "failed"]
    return [stretch for stretch in spans if _seconds(stretch) >= SHORTEST_S]


def is_heard_on(piece: Segment | Span, channel: int | None) -> bool:
    """Whether a segment, or what a span says, is of the channel; None: of any."""
    return channel is None or piece.channel is None or piece.channel == channel


def _groups(row: Transcript, flags: Collection[str], channel: int | None) -> Iterator[_Group]:
    """The segments, and the spans that failed or were unheard, in order of time, those that overlap as one."""
    segments = [segment for segment in row.segments if is_heard_on(segment, channel)]
    pieces = [_Group(one.start_s, one.end_s, not set(flags).isdisjoint(one.flags)) for one in segments]
    unheard = "empty_on_speech" in flags
    spans = [span for span in row.spans if span.kind != "non_speech" and is_heard_on(span, channel)]
    pieces += [_Group(span.start_s, span.end_s, unheard and span.kind == "unheard") for span in spans]
    open_group: _Group | None = None
    for piece in sorted(pieces, key=lambda piece: (piece.start_s, piece.end_s)):
        if open_group and piece.start_s < open_group.end_s - SAME_TIME_S:
            end_s = max(open_group.end_s, piece.end_s)
            open_group = _Group(open_group.start_s, end_s, open_group.wanted or piece.wanted)
        else:
            if open_group:
                yield open_group
            open_group = piece
    if open_group:
        yield open_group


def _joins(stretch: Stretch, group: _Group, longest_s: float) -> bool:
    pause_s = group.start_s - (stretch.end_s or 0.0)
    return pause_s <= LONGEST_PAUSE_S and group.end_s - stretch.start_s <= longest_s


def _seconds(stretch: Stretch) -> float:
    return (stretch.end_s or 0.0) - stretch.start_s
