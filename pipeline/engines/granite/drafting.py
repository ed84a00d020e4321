"""A cheap guess at a row's tokens, and where in it the model is: what greedy decoding verifies many tokens at a time with.

Pure: tokens in, tokens out. Nothing here decides about the text; a wrong guess costs time alone.
"""

from __future__ import annotations

from collections.abc import Sequence

PIECE = 16  # tokens guessed at once behind the first pass, where every token guessed wrong is computed for nothing
REACH = 8  # tokens of the draft in which the model's own one is looked for
MOST_MISSES = 3  # guesses in a row of which no token was right, after which the draft is given up


class Draft:
    """One row's draft. `propose` and `learn` take turns until the row has ended."""

    def __init__(self, ids: Sequence[int]) -> None:
        """`ids`: tokens without the end token; empty is a draft that says nothing."""
        self._ids = tuple(ids)
        self._at = 0  # the model has followed the draft up to here
        self._own: list[int] = []  # what it has written since
        self._start = 0  # of the last proposal
        self._misses = 0
        self._begun = False

    def __len__(self) -> int:
        return len(self._ids)

    def propose(self, room: int) -> tuple[int, ...]:
        """What may come next, `room` tokens at most: at first the whole draft, then a piece; empty where there is no idea.

        The first pass goes over the whole prompt anyway, so that its few tokens more cost little.
        """
        if self._misses >= MOST_MISSES:
            return ()
        self._start = self._place()
        size = PIECE if self._begun else len(self._ids)
        self._begun = True
        return self._ids[self._start : self._start + max(0, min(room, size))]

    def learn(self, proposed: int, accepted: int, own: int) -> None:
        """What became of a proposal: so many of its tokens were right, then the model wrote a token of its own."""
        if accepted:
            self._at, self._own, self._misses = self._start + accepted, [], 0
        elif proposed:
            self._misses += 1
        self._own.append(own)

    def _place(self) -> int:
        """Where the draft goes on behind the model's own tokens: behind the same ones near by, else behind as many."""
        if not self._own:
            return self._at
        window = self._ids[self._at : self._at + len(self._own) + REACH]
        for size in (2, 1):  # two tokens in a row are less often a coincidence
            wanted = tuple(self._own[-size:])
            for end in range(size, len(window) + 1):
                if len(wanted) == size and window[end - size : end] == wanted:
                    return self._at + end
        return self._at + len(self._own)
