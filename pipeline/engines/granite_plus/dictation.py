"""How a chunk of any length is heard in calls that fit the model: which audio, after which text, and what is kept of each answer.

The audio of a window grows by a step from call to call; each call continues the text so far, so that speakers keep their
numbers, except for the last words before a cut, which are heard again with what follows. A window that is full is left for one
that overlaps it: the first half of the overlap is the text that its first call continues, the second half is heard twice and
joined where both agree. Windows begin at whole turns of the tags' clock, so that a text's tags stay true in the next one.

Knows no model and no tensors: calls out, replies in.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.engines.granite_plus.merging import Placed, join_at
from pipeline.engines.granite_plus.tags import SILENCE, TURN_CS, Spoken, parse, render
from pipeline.records import SAMPLE_RATE_HZ

_TURN_SAMPLES = TURN_CS * SAMPLE_RATE_HZ // 100
_SPARE_TOKENS = 16
_STOP_REASONS = ("eos", "length", "loop")  # of several answers, the last of these is the chunk's
_UNSURE_S = 1.0  # words that end so close to a cut are heard again …
_UNSURE_WORDS = 3  # … or, of words without times, so many


@dataclass(frozen=True, slots=True)
class Limits:
    """What a call may take."""

    positions: int  # of the language model, for audio, text and answer
    prompt: int  # positions of the prompt's words
    tokens_per_s: float  # most tokens of text per second of audio
    step_s: float  # new audio in a call
    overlap_s: float  # of two windows
    window_s: float  # most audio in a call

    def needed(self) -> int:
        """Positions that the first call of a window may need."""
        fresh_s = self.overlap_s + TURN_CS / 100 + self.step_s  # windows begin on a whole turn
        return self.prompt + audio_positions(math.ceil(fresh_s * SAMPLE_RATE_HZ)) + self.budget(fresh_s)

    def budget(self, fresh_s: float) -> int:
        """Most tokens for so much audio."""
        return _SPARE_TOKENS + math.ceil(self.tokens_per_s * fresh_s)


class Call(NamedTuple):
    """One question to the model: these samples of the chunk, the text to continue, the longest answer in tokens."""

    start: int
    end: int
    prefix: str
    budget: int


class Piece(NamedTuple):
    """A few tokens of an answer that begin with a space, and their mean probability."""

    text: str
    probability: float


class Reply(NamedTuple):
    """What the model wrote, and why it stopped: "eos", "length" or "loop"."""

    pieces: Sequence[Piece]
    n_tokens: int
    stop_reason: str


@dataclass(frozen=True, slots=True)
class Heard:
    """A word or a silence, with times from the chunk's start."""

    spoken: Spoken
    place_s: float  # its end, or where it may be, for want of one
    confidence: float


def audio_positions(n_samples: int) -> int:
    """Positions that a clip takes: three for 15 frames of 20 ms, begun ones included."""
    frames = (n_samples // 160 + 1) // 2
    return -(-frames // 15) * 3


class Dictation:
    """The state of one chunk: ask for `next_call`, `take` the reply, until there is none."""

    def __init__(self, n_samples: int, limits: Limits, count_tokens: Callable[[str], int]) -> None:
        self.heard: list[Heard] = []  # what is settled, in order
        self.warnings: dict[str, None] = {}
        self.n_tokens, self.stop_reason = 0, "eos"
        self._n_samples, self._limits, self._count = n_samples, limits, count_tokens
        self._start = self._end = 0  # samples of the window so far
        self._first = 0  # of `heard`, in the window's text
        self._from_s = 0.0  # where the next answer begins
        self._unsure: list[Heard] = []  # heard before the last cut, to be heard again
        self._rival: list[Heard] = []  # what the last window heard in the second half of the overlap
        self._labels: dict[int, int] = {}  # number of a speaker in the window's text -> in the chunk
        self._used: set[int] = set()  # numbers of speakers in the chunk
        self._looped = False
        self._call = Call(0, 0, "", 0)

    def next_call(self) -> Call | None:
        """What to ask next; None: the chunk is heard to its end."""
        left = self._n_samples - self._end
        if not left:
            return None
        end = self._end + math.ceil(left / math.ceil(left / int(self._limits.step_s * SAMPLE_RATE_HZ)))
        if self._end:
            if self._looped:
                self._slide(0.0)
            elif end - self._start > self._limits.window_s * SAMPLE_RATE_HZ or self._room(end) < self._wanted(end):
                self._slide(self._limits.overlap_s)
        while len(self.heard) - self._first > 1 and self._room(end) < self._wanted(end):
            self._forget((len(self.heard) - self._first) // 2)
        self._call = Call(self._start, end, render(self._known()), min(self._wanted(end), self._room(end)))
        return self._call

    def take(self, reply: Reply) -> None:
        """The answer to the last `next_call`."""
        self.n_tokens += reply.n_tokens
        self.stop_reason = max(self.stop_reason, reply.stop_reason, key=_STOP_REASONS.index)
        self._looped = reply.stop_reason == "loop"
        heard, settled = self._joined(reply)
        heard = heard or self._unsure
        self._rival, self._end = [], self._call.end
        sure = len(heard) if self._end == self._n_samples else max(settled, self._sure(heard))
        self.heard += heard[:sure]
        self._unsure = heard[sure:]
        reached_s = self.heard[-1].place_s if self.heard else 0.0
        if not self._unsure and reply.stop_reason == "eos":
            reached_s = self._end / SAMPLE_RATE_HZ
        self._from_s = max(self._from_s, reached_s)

    def _read(self, reply: Reply) -> list[Heard]:
        """The words of a reply on the chunk's clock; speakers with the numbers that the model gives them."""
        text = "".join(piece.text for piece in reply.pieces)
        known = self._known()
        times = (one.end_cs for one in reversed(known) if one.end_cs is not None)
        spoken = parse(
            text,
            speaker=known[-1].speaker if known else None,
            reached_cs=next(times, self._start * 100 // SAMPLE_RATE_HZ),
            limit_cs=self._call.end * 100 // SAMPLE_RATE_HZ,
        )
        sure = _confidences(reply.pieces, spoken)
        places = _places(spoken, self._from_s, self._call.end / SAMPLE_RATE_HZ)
        return [Heard(*one) for one in zip(spoken, places, sure, strict=True)]

    def _joined(self, reply: Reply) -> tuple[list[Heard], int]:
        """The reply, behind what the last window heard in the same place; how much that is: this window may not hear it."""
        fresh = self._read(reply)
        end, start = join_at([_placed(one) for one in self._rival], [_placed(one) for one in fresh])
        self._label_speakers(fresh, end, start)
        labelled = [self._labelled(one) for one in fresh[start:]]
        return _in_order(self._rival[:end] + labelled), end

    def _label_speakers(self, fresh: Sequence[Heard], end: int, start: int) -> None:
        """Give the numbers that are new in this window their numbers in the chunk.

        What both windows heard around `end` and `start` tells who is who. Who is in no such place may be one of those whom only
        earlier windows heard, or not: one voice under two numbers does less harm than two voices under one.
        """
        votes = Counter(_same_speakers(self._rival, fresh, end, start))
        for number in dict.fromkeys(one.spoken.speaker for one in fresh):
            if number is None or number in self._labels:
                continue
            taken = set(self._labels.values())
            agreed = [label for (new, label), _ in votes.most_common() if new == number and label not in taken]
            label = agreed[0] if agreed else number
            if not agreed and self._used - taken:
                self.warnings["speakers_uncertain"] = None
            if not agreed and label in self._used:
                label = max(self._used) + 1
            self._labels[number] = label
            self._used.add(label)
        for kept in (one.spoken.speaker for one in self._rival[:end]):
            if kept is not None and kept not in self._labels.values():  # a number in this window's text for them too
                self._labels[kept if kept not in self._labels else max(self._labels) + 1] = kept

    def _labelled(self, one: Heard) -> Heard:
        if one.spoken.speaker is None:
            return one
        return replace(one, spoken=replace(one.spoken, speaker=self._labels[one.spoken.speaker]))

    def _sure(self, heard: list[Heard]) -> int:
        """How many words are far enough from the cut that more audio will hardly change them."""
        if not any(one.spoken.end_cs is not None for one in heard):
            return max(0, len(heard) - _UNSURE_WORDS)
        return bisect_right(heard, self._end / SAMPLE_RATE_HZ - _UNSURE_S, key=_place)

    def _slide(self, overlap_s: float) -> None:
        """Leave the window for one that overlaps it, or, where there is no overlap, forgets its text."""
        end_s = self._end / SAMPLE_RATE_HZ
        start = self._end - int(overlap_s * SAMPLE_RATE_HZ)
        self._start = max(self._start, start - start % _TURN_SAMPLES)
        start_s = self._start / SAMPLE_RATE_HZ
        self._from_s = (start_s + end_s) / 2 if overlap_s else start_s
        everything = self.heard + self._unsure
        kept = bisect_right(everything, self._from_s, key=_place)
        self.heard, self._rival, self._unsure = everything[:kept], everything[kept:], []
        self._first = bisect_left(self.heard, start_s, key=_place) if overlap_s else kept
        self._labels = {number: number for number in self._used}
        self._forget(0)

    def _forget(self, items: int) -> None:
        """Take the first so many out of the window's text, and with them the speakers that nothing in it names any more."""
        self._first += items
        named = {one.spoken.speaker for one in self.heard[self._first :]}
        self._labels = {number: label for number, label in self._labels.items() if label in named}

    def _known(self) -> list[Spoken]:
        """The window's text so far, as the model would have written it."""
        numbers = {label: number for number, label in self._labels.items()}
        known = (one.spoken for one in self.heard[self._first :])
        return [one if one.speaker is None else replace(one, speaker=numbers[one.speaker]) for one in known]

    def _room(self, end: int) -> int:
        """Positions that are left for the answer."""
        limits, known = self._limits, self._count(render(self._known()))
        return limits.positions - limits.prompt - audio_positions(end - self._start) - known

    def _wanted(self, end: int) -> int:
        return self._limits.budget(end / SAMPLE_RATE_HZ - self._from_s)


def _in_order(heard: Sequence[Heard]) -> list[Heard]:
    """Without steps back in time, as two hypotheses may have where they meet."""
    found: list[Heard] = []
    place_s, reached_cs = 0.0, 0
    for one in heard:
        spoken, place_s = one.spoken, max(place_s, one.place_s)
        if spoken.end_cs is not None:
            start_cs = None if spoken.start_cs is None else max(spoken.start_cs, reached_cs)
            reached_cs = max(reached_cs, spoken.end_cs)
            spoken = replace(spoken, start_cs=start_cs, end_cs=reached_cs)
        found.append(replace(one, spoken=spoken, place_s=place_s))
    return found


def _same_speakers(old: Sequence[Heard], new: Sequence[Heard], end: int, start: int) -> Iterator[tuple[int, int]]:
    """(number in `new`, number in `old`) of every word that both hold in the run around where they meet."""
    backwards = zip(reversed(old[:end]), reversed(new[:start]), strict=False)
    onwards = zip(old[end:], new[start:], strict=False)
    for pairs in (backwards, onwards):
        for left, right in pairs:
            if left.spoken.word.casefold() != right.spoken.word.casefold():
                break
            if left.spoken.speaker is not None and right.spoken.speaker is not None:
                yield right.spoken.speaker, left.spoken.speaker


def _placed(one: Heard) -> Placed:
    return Placed(one.spoken.word or SILENCE, one.place_s)


def _place(one: Heard) -> float:
    return one.place_s


def _places(spoken: Sequence[Spoken], start_s: float, end_s: float) -> list[float]:
    """Where each ends: as its tag says, or evenly spread between those that say so and both ends. Never backwards."""
    found: list[float] = []
    before_s = start_s
    while len(found) < len(spoken):
        at = next((at for at in range(len(found), len(spoken)) if spoken[at].end_s is not None), len(spoken))
        after_s = spoken[at].end_s if at < len(spoken) else end_s
        untimed = at - len(found)
        # The time after them is that of a word of its own, or of the end of the audio, which the last one may reach.
        share = untimed + 1 if at < len(spoken) else untimed
        after_s = max(before_s, end_s if after_s is None else after_s)
        found += [before_s + (after_s - before_s) * number / share for number in range(1, untimed + 1)]
        if at < len(spoken):
            found.append(after_s)
        before_s = after_s
    return found


def _confidences(pieces: Sequence[Piece], spoken: Sequence[Spoken]) -> list[float]:
    """The probability of the piece in which each word begins."""
    ends: list[int] = []
    for piece in pieces:
        ends.append((ends[-1] if ends else 0) + len(piece.text))
    return [pieces[bisect_right(ends, one.begin)].probability for one in spoken]
