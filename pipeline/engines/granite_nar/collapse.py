"""From the labels of a CTC head or of the editor's slots to tokens: drop repeats, then blanks. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """What is left of a packed row of labels."""

    ids: Ints  # [N] of all clips
    counts: Ints  # [B] tokens of each clip
    probabilities: Floats  # [N] the highest posterior in each token's run

    def split(self) -> list[Ints]:
        """The ids of each clip."""
        return np.split(self.ids, np.cumsum(self.counts)[:-1]) if len(self.counts) else []

    def split_probabilities(self) -> list[Floats]:
        """The probabilities of each clip's tokens."""
        return np.split(self.probabilities, np.cumsum(self.counts)[:-1]) if len(self.counts) else []


def collapse(labels: Ints, probabilities: Floats, sizes: Ints, *, blank: int, shift: int = 0) -> Tokens:
    """Collapse every clip's labels on their own: runs of the same label are one, then blanks go, ids are label - shift.

    labels [sum(sizes)], probabilities (posterior of each label) the same, sizes [B].
    """
    clip = np.repeat(np.arange(len(sizes)), sizes)
    first = np.ones(len(labels), bool)
    first[1:] = (labels[1:] != labels[:-1]) | (clip[1:] != clip[:-1])
    starts = np.flatnonzero(first)
    kept = labels[starts] != blank
    highest = np.maximum.reduceat(probabilities, starts) if len(starts) else probabilities[:0]
    counts = np.bincount(clip[starts][kept], minlength=len(sizes)).astype(np.int64)
    return Tokens(labels[starts][kept] - shift, counts, highest[kept])
