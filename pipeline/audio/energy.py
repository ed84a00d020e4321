"""How loud each 10 ms of audio is.

Whole numbers throughout: two workers that hold the same samples agree to the last bit. Knows nothing of speech.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.records import SAMPLE_RATE_HZ, Samples

FRAME = SAMPLE_RATE_HZ // 100  # samples in 10 ms


def frame_energy(samples: Samples) -> npt.NDArray[np.int64]:
    """The variance of each whole 10 ms frame, times 160² so that it stays an integer; a steady offset counts as silence.

    int16 [n] → int64 [n // 160].
    """
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    squares = np.einsum("ij,ij->i", frames, frames, dtype=np.int64)
    sums = frames.sum(axis=1, dtype=np.int64)
    energy: npt.NDArray[np.int64] = FRAME * squares - sums * sums
    return energy


def quietest_frame(energy: npt.NDArray[np.int64], width: int, near: int) -> int:
    """The frame border amid the quietest `width` neighbouring frames; of equals the one nearest to `near`, then the first.

    `energy` is int64 [frames], not empty; fewer frames than `width` count as one stretch.
    """
    width = min(width, len(energy))
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(energy)])
    stretches = sums[width:] - sums[:-width]
    middles = np.flatnonzero(stretches == stretches.min()) + width // 2
    return int(middles[np.argmin(np.abs(middles - near))])
