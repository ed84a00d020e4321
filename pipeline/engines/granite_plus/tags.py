"""The tags that Granite Speech Plus writes between the words: who speaks, and when a word ends. Pure, standard library alone.

`[Speaker 2]:` begins a turn. `[T:45]` follows a word and says in hundredths of a second when it ends, without the tens of
seconds: after 9.80 s, `[T:45]` is 10.45 s. `_ [T:45]` is a silence up to then. A word begins where what came before it ends.
What only looks like a tag is text. Source: the model card of granite-speech-4.1-2b-plus.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

TURN_CS = 1000  # the clock shows this many hundredths of a second, then begins again
SILENCE = "_"
_TAG = re.compile(r"\[Speaker (?P<speaker>[0-9]{1,4})\]:|\[T:(?P<time>0*[0-9]{1,3})\]")
_WORD = re.compile(r"\S+")
_LATE_CS = 50  # a last word may be said to end a little after the audio does


@dataclass(frozen=True, slots=True)
class Spoken:
    """A word as its tags describe it; a silence, where `word` is empty. What no tag tells is None."""

    word: str
    speaker: int | None = None
    start_cs: int | None = None
    end_cs: int | None = None
    digits: str = field(default="", compare=False)  # of the time, as the model wrote them
    begin: int = field(default=0, compare=False)  # where the word stands in the text

    @property
    def start_s(self) -> float | None:
        """When it begins, in seconds."""
        return None if self.start_cs is None else self.start_cs / 100

    @property
    def end_s(self) -> float | None:
        """When it ends, in seconds."""
        return None if self.end_cs is None else self.end_cs / 100


def unwrap(shown_cs: int, reached_cs: int) -> int:
    """The first time, not before `reached_cs`, at which the clock shows `shown_cs` (0 to 999)."""
    end_cs = reached_cs - reached_cs % TURN_CS + shown_cs
    return end_cs if end_cs >= reached_cs else end_cs + TURN_CS


def parse(
    text: str, *, speaker: int | None = None, reached_cs: int = 0, limit_cs: int | None = None
) -> tuple[Spoken, ...]:
    """Words and silences in order. No text is lost: damaged tags are words.

    `speaker`, `reached_cs`: who spoke and what the clock had reached in a text that this one continues. `limit_cs`: the end of
    the audio; a time beyond it is not believed, and its word has none.
    """
    found: list[Spoken] = []
    before_cs: int | None = reached_cs  # where the last word ended; None: it did not say
    at = 0
    for match in _TAG.finditer(text):
        words = list(_WORD.finditer(text, at, match.start()))
        at = match.end()
        shown = match["time"]
        last = words.pop() if words and shown else None
        found += [Spoken(word.group(), speaker, begin=word.start()) for word in words]
        before_cs = None if words else before_cs
        if not shown:
            speaker = int(match["speaker"])
            continue
        end_cs: int | None = unwrap(int(shown), reached_cs)
        if limit_cs is not None and end_cs is not None:
            end_cs = min(end_cs, max(limit_cs, reached_cs)) if end_cs <= limit_cs + _LATE_CS else None
        said = "" if last is None or last.group() == SILENCE else last.group()
        if end_cs is not None:
            begin = match.start() if last is None else last.start()
            found.append(Spoken(said, speaker, before_cs, end_cs, shown, begin))
            before_cs = reached_cs = end_cs
        elif last is not None and said:
            found.append(Spoken(said, speaker, begin=last.start()))
            before_cs = None
    found += [Spoken(word.group(), speaker, begin=word.start()) for word in _WORD.finditer(text, at)]
    return tuple(found)


def render(spoken: Iterable[Spoken], speaker: int | None = None) -> str:
    """The text whose tags say so: `parse` backwards. `speaker`: who spoke before, so that no tag says it again."""
    parts: list[str] = []
    for one in spoken:
        if one.speaker is not None and one.speaker != speaker:
            speaker = one.speaker
            parts.append(f"[Speaker {speaker}]:")
        parts.append(one.word or SILENCE)
        if one.end_cs is not None:
            shown_cs = one.end_cs % TURN_CS
            parts.append(f"[T:{one.digits if one.digits and int(one.digits) == shown_cs else shown_cs}]")
    return " ".join(parts)
