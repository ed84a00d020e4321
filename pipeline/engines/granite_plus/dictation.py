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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.engines.granite_plus.merging import Placed, join_at
from pipeline.engines.granite_plus.tags import SILENCE, TURN_CS, Spoken, parse, render
from pipeline.records import SAMPLE_RATE_HZ

_TURN_SAMPLES = TURN_CS * SAMPLE_RATE_HZ // 100
_SPARE_TOKENS = 16
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
        self._before = 0  # speakers of earlier windows, whose numbers the model does not know any more
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
        while self._first < len(self.heard) and self._room(end) < self._wanted(end):
            self._first += (len(self.heard) - self._first + 1) // 2
        self._call = Call(self._start, end, render(self._known()), min(self._wanted(end), self._room(end)))
        return self._call

    def take(self, reply: Reply) -> None:
        """The answer to the last `next_call`."""
        self.n_tokens += reply.n_tokens
        self.stop_reason = reply.stop_reason
        self._looped = reply.stop_reason == "loop"
        if reply.stop_reason in ("loop", "length"):
            self.warnings["loop_cut" if self._looped else "token_budget_hit"] = None
        heard = self._joined(self._read(reply)) or self._unsure
        self._rival, self._end = [], self._call.end
        sure = len(heard) if self._end == self._n_samples else self._sure(heard)
        self.heard += heard[:sure]
        self._unsure = heard[sure:]
        reached_s = self.heard[-1].place_s if self.heard else 0.0
        if not self._unsure and reply.stop_reason == "eos":
            reached_s = self._end / SAMPLE_RATE_HZ
        self._from_s = max(self._from_s, reached_s)

    def _read(self, reply: Reply) -> list[Heard]:
        """The words of a reply, on the chunk's clock, with the numbers of speakers that the chunk knows."""
        text = "".join(piece.text for piece in reply.pieces)
        known = self._known()
        speaker = known[-1].speaker if known else None
        times = (one.end_cs for one in reversed(known) if one.end_cs is not None)
        found = parse(
            text,
            speaker=speaker,
            reached_cs=next(times, self._start * 100 // SAMPLE_RATE_HZ),
            limit_cs=self._call.end * 100 // SAMPLE_RATE_HZ,
        )
        spoken = [one if one.speaker is None else replace(one, speaker=one.speaker + self._before) for one in found]
        sure = _confidences(reply.pieces, spoken)
        places = _places(spoken, self._from_s, self._call.end / SAMPLE_RATE_HZ)
        return [Heard(*one) for one in zip(spoken, places, sure, strict=True)]

    def _joined(self, heard: list[Heard]) -> list[Heard]:
        """With what the last window heard in the same place."""
        end, start = join_at([_placed(one) for one in self._rival], [_placed(one) for one in heard])
        return _in_order(self._rival[:end] + heard[start:])

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
        speakers = [one.spoken.speaker for one in everything if one.spoken.speaker is not None]
        if speakers and self._first == kept:
            self._before = max(speakers)
            self.warnings["speakers_restarted"] = None

    def _known(self) -> list[Spoken]:
        """The window's text so far, with the model's own numbers of speakers; those it cannot know are left out."""
        known = [one.spoken for one in self.heard[self._first :]]
        if not self._before:
            return known
        numbers = [None if one.speaker is None else one.speaker - self._before for one in known]
        return [
            replace(one, speaker=number if number and number > 0 else None)
            for one, number in zip(known, numbers, strict=True)
        ]

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
