"""Which chunks go to the engine together.

Pure numbers: lengths in, indices out. Knows nothing of recordings, shards or devices.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Padding = Literal["none", "longest", "fixed"]
Lengths = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def padded_s(audio_s: Lengths, batch: Indices, padding: Padding, fixed_s: float) -> float:
    """Seconds the engine computes for a batch: its audio, its longest chunk times its size, or `fixed_s` times its size."""
    if not len(batch):
        return 0.0
    if padding == "none":
        return float(audio_s[batch].sum())
    return len(batch) * (fixed_s if padding == "fixed" else float(audio_s[batch].max()))


def pack_batches(
    audio_s: Lengths, *, max_audio_s: float, max_chunks: int, padding: Padding, fixed_s: float = 0.0
) -> list[Indices]:
    """Batches of neighbours in length, longest first: every index of `audio_s` once, ties by index.

    A batch holds at most `max_chunks` chunks and `max_audio_s` padded seconds, or it is a single chunk.
    float64 [n] seconds → int arrays. Raises ValueError for limits that no batch can keep.
    """
    if max_chunks < 1 or not max_audio_s > 0 or (padding == "fixed" and not fixed_s > 0):
        raise ValueError(
            f"no batch can keep to {max_chunks} chunks and {max_audio_s} s ({padding} padding, {fixed_s} s)"
        )
    order = np.argsort(-audio_s, kind="stable")
    lengths = audio_s[order]
    upto_s = np.concatenate([np.zeros(1), np.cumsum(lengths)])
    batches, start = [], 0
    while start < len(order):
        if padding == "none":
            fitting = int(np.searchsorted(upto_s, upto_s[start] + max_audio_s, side="right")) - 1 - start
        else:
            each_s = fixed_s if padding == "fixed" else float(lengths[start])
            fitting = max_chunks if each_s * max_chunks <= max_audio_s else int(max_audio_s // each_s)
        count = min(max(fitting, 1), max_chunks, len(order) - start)
        # The running sum is rounded: take a chunk back where the true sum is over.
        while padding == "none" and count > 1 and lengths[start : start + count].sum() > max_audio_s:
            count -= 1
        batches.append(order[start : start + count])
        start += count
    return batches
