"""Segments as cues of subtitles: lines that fit a screen, and when to show them. Pure.

A segment that needs more lines than a cue may have is parted. The parts get the times of their words where the engine gave
them for the whole segment, else a share of the segment's time by their letters. Parts of one segment never overlap and stay
inside it; segments that overlap (two people, two channels) stay as they are.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.records import Segment, Word

# A line must not begin with these, if there is another way.
_NOT_FIRST = frozenset("、。，．！？：；）」』】〕》〉…ー々ぁぃぅぇぉっゃゅょァィゥェォッャュョ,.!?:;)]}%")


@dataclass(frozen=True, slots=True)
class Cue:
    """Lines shown in [start_ms, end_ms); milliseconds from the recording's start, `end_ms` > `start_ms`."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    speaker: str | None = None


def one_line(text: str) -> str:
    """The text with single spaces for every run of white space, and without control characters."""
    return " ".join("".join(c for c in text if c.isspace() or unicodedata.category(c) != "Cc").split())


def cues_of(segments: Iterable[Segment], width: int, count: int, name_speakers: bool = False) -> list[Cue]:
    """Cues of at most `count` lines of at most `width` columns, by start.

    `name_speakers`: "Name: " before a segment's text, inside the width. A segment shorter than its cues have milliseconds
    becomes one cue with more lines.
    """
    found = []
    for segment in segments:
        body = one_line(segment.text)
        if body:
            speaker = one_line(segment.speaker or "")
            prefix = f"{speaker}: " if speaker and name_speakers else ""
            found += _cues(segment, body, prefix, speaker or None, width, count)
    return sorted(found, key=lambda cue: cue.start_ms)


def line_spans(text: str, width: int) -> list[tuple[int, int]]:
    """Where the lines of a text stand: [start, end) each; all that is between two is one space, or nothing."""
    spans = []
    start = 0
    while start < len(text):
        end = _line_end(text, start, width)
        spans.append((start, end))
        start = end + 1 if text[end : end + 1] == " " else end
    return spans


def columns(text: str) -> int:
    """How wide a text is: two columns for an ideograph, none for a mark on another letter."""
    return sum(map(_columns_of, text))


def _columns_of(letter: str) -> int:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _line_end(text: str, start: int, width: int) -> int:
    """The end of the line that begins at `start`: the last place to break before it is too wide."""
    used, best = 0, start
    for i in range(start, len(text)):
        letter, wide = text[i], _columns_of(text[i])
        beside_ideograph = i > start and text[i - 1] != " " and 2 in (wide, _columns_of(text[i - 1]))
        if letter == " " or (beside_ideograph and wide and letter not in _NOT_FIRST):
            best = i
        if used + wide > width and letter != " ":
            return best if best > start else max(i, start + 1)
        used += wide
    return len(text)


def _cues(segment: Segment, body: str, prefix: str, speaker: str | None, width: int, count: int) -> list[Cue]:
    start_ms = max(0, round(segment.start_s * 1000))
    end_ms = max(round(segment.end_s * 1000), start_ms + 1)
    text = prefix + body
    spans = line_spans(text, width)
    parts = [spans[at : at + count] for at in range(0, len(spans), count)]
    if len(parts) > end_ms - start_ms:
        parts = [spans]
    clock = _Clock(segment, body, start_ms, end_ms)
    cues = []
    last_ms = start_ms
    for number, part in enumerate(parts):
        left = len(parts) - number  # each of the cues to come needs a millisecond
        first, last = (max(0, position - len(prefix)) for position in (part[0][0], part[-1][1]))
        from_ms = min(max(clock.start_ms(first), last_ms), end_ms - left)
        to_ms = min(max(clock.end_ms(last), from_ms + 1), end_ms - left + 1)
        cues.append(Cue(from_ms, to_ms, tuple(text[a:b] for a, b in part), speaker))
        last_ms = to_ms
    return cues


class _Clock:
    """When a letter of a segment was said: linear between anchors (position, milliseconds), which never go back."""

    def __init__(self, segment: Segment, body: str, start_ms: int, end_ms: int) -> None:
        anchors = _word_anchors(segment.words, body) or [(0, start_ms), (len(body), end_ms)]
        self._positions = [position for position, _ in anchors]
        self._times: list[float] = []
        latest: float = start_ms
        for _, time_ms in anchors:
            latest = min(max(latest, time_ms), end_ms)
            self._times.append(latest)

    def start_ms(self, position: int) -> int:
        """When the letter at the position begins."""
        after = bisect_right(self._positions, position)
        return self._between(after - 1, after, position)

    def end_ms(self, position: int) -> int:
        """When the letter before the position ends."""
        after = bisect_left(self._positions, position)
        return self._between(after - 1, after, position)

    def _between(self, before: int, after: int, position: int) -> int:
        before, after = max(before, 0), min(after, len(self._positions) - 1)
        length = self._positions[after] - self._positions[before]
        share = (position - self._positions[before]) / length if length > 0 else 0.0
        return round(self._times[before] + share * (self._times[after] - self._times[before]))


def _word_anchors(words: Iterable[Word], body: str) -> list[tuple[int, float]]:
    """Begin and end of every word, if the words have times and are the segment's text but for marks; else nothing."""
    anchors: list[tuple[int, float]] = []
    position = 0
    for word in words:
        text = one_line(word.word)
        at = body.find(text, position)
        if word.start_s is None or word.end_s is None or at < 0 or _has_letters(body[position:at]):
            return []
        position = at + len(text)
        if text:
            anchors += [(at, word.start_s * 1000), (position, word.end_s * 1000)]
    return [] if _has_letters(body[position:]) else anchors


def _has_letters(text: str) -> bool:
    return any(letter.isalnum() for letter in text)
