"""Where one hypothesis of a stretch gives way to a second one that begins with it and goes on further. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_UNSPOKEN = re.compile(r"\W+")


class Placed(NamedTuple):
    """A word and where it ends, if that is known."""

    word: str
    end_s: float | None = None


class _Run(NamedTuple):
    old: int
    new: int
    length: int


def join_at(old: Sequence[Placed], new: Sequence[Placed]) -> tuple[int, int]:
    """(end, start): `old[:end]` and then `new[start:]` is what was said.

    `new` heard all that `old` heard, and more behind it. They meet inside their longest run of equal words, of several the
    one that stands at nearly the same place in both, as near to the middle of `old` as it goes; without one, where their times
    say that half of `old` is over, or at half its words. Where `new` ends before `old` does, `old` stays whole.
    """
    if not old or not new:
        return len(old), 0
    run = _longest_run([_key(one.word) for one in old], [_key(one.word) for one in new])
    if run is not None:
        if run.new + run.length == len(new):
            return len(old), len(new)
        inside = min(max(len(old) // 2 - run.old, 0), run.length)
        return run.old + inside, run.new + inside
    end, start = _by_times(old, new) or (len(old) // 2, len(old) // 2)
    return (end, start) if start < len(new) else (len(old), len(new))


def _by_times(old: Sequence[Placed], new: Sequence[Placed]) -> tuple[int, int] | None:
    """Cut both where the middle of `old` is; None: not all times are known."""
    old_s = [one.end_s for one in old if one.end_s is not None]
    new_s = [one.end_s for one in new if one.end_s is not None]
    if len(old_s) < len(old) or len(new_s) < len(new):
        return None
    middle_s = (old_s[0] + old_s[-1]) / 2
    return sum(end_s <= middle_s for end_s in old_s), sum(end_s <= middle_s for end_s in new_s)


def _longest_run(old: Sequence[str], new: Sequence[str]) -> _Run | None:
    """A single word is a run where both say it just once: "the" and "and" agree by chance."""
    new = new[: 2 * len(old) + 16]  # what comes later is behind the end of `old`
    in_old, in_new = Counter(old), Counter(new)

    def counts(run: _Run) -> bool:
        word = old[run.old]
        return run.length > 1 or in_old[word] == in_new[word] == 1

    def rank(run: _Run) -> tuple[int, int, int]:
        off_middle = abs(2 * run.old + run.length - len(old))
        return run.length, -abs(run.old - run.new), -off_middle

    return max(filter(counts, _runs(old, new)), key=rank, default=None)


def _runs(old: Sequence[str], new: Sequence[str]) -> Iterator[_Run]:
    """All stretches of equal words that cannot be made longer."""
    lengths = [0] * (len(new) + 1)  # of the run that ends at the last word of `old` and each of `new`
    for here, word in enumerate(old):
        grown = [0] * (len(new) + 1)
        for there, other in enumerate(new):
            if word != other:
                continue
            length = grown[there + 1] = lengths[there] + 1
            if here + 1 == len(old) or there + 1 == len(new) or old[here + 1] != new[there + 1]:
                yield _Run(here + 1 - length, there + 1 - length, length)
        lengths = grown


def _key(word: str) -> str:
    """The word without case and punctuation; a mark that is nothing else stays."""
    return _UNSPOKEN.sub("", word.casefold()) or word
