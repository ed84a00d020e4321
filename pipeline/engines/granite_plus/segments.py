"""From the words of a chunk to its segments: a turn of a speaker, or a stretch that is not too long to read. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.engines.granite_plus.dictation import Heard
from pipeline.engines.granite_plus.prompts import Mode
from pipeline.records import Segment, Word

_LONGEST_S = 30.0
_PAUSE_S = 1.0


def words_of(heard: Sequence[Heard]) -> tuple[Word, ...]:
    """The words with what is known of each."""
    return tuple(
        Word(
            one.spoken.word,
            one.spoken.start_s,
            one.spoken.end_s,
            one.confidence,
            None if one.spoken.speaker is None else f"Speaker {one.spoken.speaker}",
        )
        for one in heard
        if one.spoken.word
    )


def segments_of(heard: Sequence[Heard], audio_s: float, mode: Mode) -> tuple[Segment, ...]:
    """Segments from the chunk's start, in order.

    `speakers`: a turn each. Else cut before 30 s, and at silences of 1 s. Word times give a segment its times; without, segments
    stand one behind the other from 0 to `audio_s`, cut about where the words may have been said.
    """
    found: list[Segment] = []
    reached_s = 0.0
    groups = list(_groups(heard, mode))
    for number, group in enumerate(groups):
        end_s = audio_s if number == len(groups) - 1 else max(reached_s, min(group[-1].place_s, audio_s))
        start_s = reached_s
        if mode == "words" and any(one.spoken.end_s is not None for one in group):
            first_s = group[0].spoken.start_s
            start_s = reached_s if first_s is None else max(reached_s, min(first_s, audio_s))
            end_s = max(start_s, min(group[-1].place_s, audio_s))
        words = words_of(group)
        found.append(
            Segment(
                id=number,
                start_s=start_s,
                end_s=end_s,
                text=" ".join(word.word for word in words),
                speaker=words[0].speaker,
                confidence=sum(one.confidence for one in group) / len(group),
                words=() if mode == "transcript" else words,
            )
        )
        reached_s = end_s
    return tuple(found)


def _groups(heard: Sequence[Heard], mode: Mode) -> Iterator[list[Heard]]:
    """Words, without the silences, that belong into a segment."""
    group: list[Heard] = []
    silent_s = start_s = 0.0
    before_s = 0.0  # place of what came last
    for one in heard:
        if not one.spoken.word:
            silent_s += one.place_s - before_s
            before_s = one.place_s
            continue
        if group and _is_new(group[-1], one, mode, silent_s, start_s):
            yield group
            group = []
        if not group:
            start_s = before_s
        group.append(one)
        silent_s, before_s = 0.0, one.place_s
    if group:
        yield group


def _is_new(last: Heard, one: Heard, mode: Mode, silent_s: float, start_s: float) -> bool:
    if mode == "speakers":
        return one.spoken.speaker != last.spoken.speaker
    return silent_s >= _PAUSE_S or one.place_s - start_s > _LONGEST_S
