"""Whether a decoder has begun to repeat itself without end: a pure look at the tokens so far."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_PERIOD = 32  # tokens: a sentence
MIN_TURNS = 4
MIN_TOKENS = 24  # people do say "no, no, no, no"


def cut_loop(ids: Sequence[int]) -> int | None:
    """How many tokens to keep where the last ones go round in a circle: all up to the end of its first turn; else None.

    A circle is at most `LONGEST_PERIOD` tokens long, goes round at least `MIN_TURNS` times and fills at least
    `MIN_TOKENS` tokens.
    """
    for period in range(1, min(LONGEST_PERIOD, len(ids) // MIN_TURNS) + 1):
        if ids[-1] != ids[-1 - period]:
            continue
        start = len(ids) - period  # of the part in which every token comes again one period later
        while start and ids[start - 1] == ids[start - 1 + period]:
            start -= 1
        if len(ids) - start >= max(MIN_TOKENS, MIN_TURNS * period):
            return start + period
    return None
