"""From the labels of a CTC head to tokens and words with their frames. Pure numpy: knows no tokenizer and no audio.

A CTC head writes one label per frame; a run of equal labels is one token, blanks are silence or the inside of a sound. A run says
where the model was sure of a token, not how long it was spoken: times from it are approximate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Tokens(NamedTuple):
    """What a clip's labels collapse to; all arrays have one entry per token, in order."""

    ids: Ints
    first: Ints  # the run's first frame
    end: Ints  # the frame after the run's last
    confidences: Floats  # the highest posterior in the run


class WordSpan(NamedTuple):
    """A word: tokens [start, end), without what separates words."""

    start: int
    end: int


def collapse(labels: Ints, confidences: Floats, blank: int) -> Tokens:
    """Runs of equal labels become one token, then blanks go. labels [T], confidences [T] (posterior of each label)."""
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]]) if len(labels) else np.zeros(0, np.int64)
    ends = np.append(starts[1:], len(labels)).astype(np.int64)[: len(starts)]
    highest = np.maximum.reduceat(confidences, starts) if len(starts) else confidences[:0]
    kept = labels[starts] != blank
    return Tokens(labels[starts][kept], starts[kept], ends[kept], highest[kept])


def choose(tokens: Tokens, kept: Bools) -> Tokens:
    """The tokens where `kept` [N] is true."""
    return Tokens(tokens.ids[kept], tokens.first[kept], tokens.end[kept], tokens.confidences[kept])


def find_words(begins: Bools, separates: Bools) -> list[WordSpan]:
    """Words among N tokens: one begins at a token that `begins`, at the first, and after one that `separates`.

    Every token that does not separate is in one word; words are not empty.
    """
    spans: list[WordSpan] = []
    start: int | None = None
    for at in range(len(begins)):
        if start is not None and (separates[at] or begins[at]):
            spans.append(WordSpan(start, at))
            start = None
        if start is None and not separates[at]:
            start = at
    if start is not None:
        spans.append(WordSpan(start, len(begins)))
    return spans


def span_times(tokens: Tokens, span: WordSpan, frame_s: float, audio_s: float) -> tuple[float, float]:
    """From the first frame of a word's first token to the end of its last token's run, in seconds within the clip."""
    start_s, end_s = tokens.first[span.start] * frame_s, tokens.end[span.end - 1] * frame_s
    return min(round(float(start_s), 3), audio_s), min(round(float(end_s), 3), audio_s)
