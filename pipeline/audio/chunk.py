"""Where to cut a window into chunks for the engine.

Knows samples and where speech is; not how speech was found, nor what an engine does with a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.audio.energy import FRAME, frame_energy, quietest_frame
from pipeline.records import SAMPLE_RATE_HZ, Samples

Range = tuple[int, int]

SLIVER = SAMPLE_RATE_HZ  # shorter chunks give an engine too little to go by
QUIET_FRAMES = 10  # 0.1 s: longer than the closure of a plosive, so that words stay whole


def cut_chunks(
    samples: Samples, speech: Sequence[Range], max_samples: int, longest_pause: int | None, *, whole: bool = True
) -> tuple[Range, ...]:
    """Chunk bounds: sorted, disjoint, each at most `max_samples`, together covering every range of `speech`.

    Audio that fits one chunk stays whole, unless `whole` is false. Otherwise neighbouring speech shares a chunk while it
    fits, and the cut falls on the longest pause in the last third of what fits; unbroken speech is cut where it is
    quietest in that third. A pause of more than `longest_pause` samples ends a chunk; with None, chunks run over pauses of
    any length.
    `speech` is sorted and disjoint within [0, len(samples)). Raises ValueError when `max_samples` is not positive.
    """
    if max_samples < 1:
        raise ValueError(f"a chunk of at most {max_samples} samples cannot hold anything")
    if not speech:
        return ()
    if whole and len(samples) <= max_samples:
        return ((0, len(samples)),)
    pieces = [piece for start, end in speech for piece in _split(samples, start, end, max_samples)]
    return tuple(_merge(pieces, max_samples, longest_pause))


def _split(samples: Samples, start: int, end: int, max_samples: int) -> Iterator[Range]:
    """Unbroken speech in pieces that fit."""
    tail = min(SLIVER, max_samples // 3)
    while end - start > max_samples:
        cut = _quiet_cut(samples, start + max_samples * 2 // 3, min(start + max_samples, end - tail))
        yield start, cut
        start = cut
    yield start, end


def _quiet_cut(samples: Samples, first: int, last: int) -> int:
    """The quietest frame border in [first, last], the latest of equals; `last` where the range holds no whole frame."""
    low, high = -(-first // FRAME), last // FRAME
    if high <= low:
        return last
    energy = frame_energy(samples[low * FRAME : high * FRAME])
    return (low + quietest_frame(energy, QUIET_FRAMES, near=len(energy))) * FRAME


def _merge(pieces: Sequence[Range], max_samples: int, longest_pause: int | None) -> Iterator[Range]:
    """Neighbouring pieces as one range for as long as they fit."""
    starts, ends = np.array(pieces).T
    pauses = starts[1:] - ends[:-1]
    is_long = pauses > (max_samples if longest_pause is None else longest_pause)
    breaks = np.append(np.flatnonzero(is_long) + 1, len(pieces))
    first = 0
    while first < len(pieces):
        fits = int(np.searchsorted(ends, starts[first] + max_samples, side="right"))
        stop = int(breaks[np.searchsorted(breaks, first, side="right")])
        if fits < stop:
            after = np.arange(first + 1, fits + 1)  # where the next chunk could begin
            is_full = ends[after - 1] - starts[first] >= max_samples * 2 // 3
            is_good = is_full & (ends[stop - 1] - starts[after] >= SLIVER)
            after = after[is_good] if is_good.any() else after[-1:]
            longest = pauses[after - 1].max()
            stop = int(after[pauses[after - 1] == longest][-1])
        yield int(starts[first]), int(ends[stop - 1])
        first = stop
