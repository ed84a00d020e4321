"""From cross attention to when each token was said: dynamic time warping, as Whisper's authors do it. Pure numpy.

Source: the word timing of OpenAI's whisper (MIT), whose steps these are: normalise over tokens, smooth over frames, average
the heads, find the cheapest monotone path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SMOOTHED_FRAMES = 7
_ROUNDING = (
    1e-4  # tokens whose attention to a frame differs by less differ by rounding errors, which would become large
)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Alignment:
    """Steps of the path, as (token, encoder frame of 20 ms), and each token's probability. As ctranslate2 gives them."""

    alignments: Sequence[tuple[int, int]]
    text_token_probs: Sequence[float]


def align(attention: Floats) -> list[tuple[int, int]]:
    """The path through the attention of the alignment heads: [heads, tokens, frames], all of them at least 1."""
    mean = attention.mean(axis=1, keepdims=True)
    spread = attention.std(axis=1, keepdims=True)
    differs = spread > _ROUNDING * mean
    normal = np.where(differs, (attention - mean) / np.where(differs, spread, 1), 0)
    return cheapest_path(-smooth(normal).mean(axis=0))


def smooth(rows: Floats) -> Floats:
    """The median of 7 neighbours along the last axis, mirrored at both ends; too short rows stay as they are."""
    reach = _SMOOTHED_FRAMES // 2
    if rows.shape[-1] <= reach:
        return rows
    padded = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(reach, reach)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _SMOOTHED_FRAMES, axis=-1)
    found: Floats = np.median(windows, axis=-1).astype(np.float32)
    return found


def cheapest_path(costs: Floats) -> list[tuple[int, int]]:
    """Dynamic time warping through [tokens, frames]: from the first corner to the last, one step in either or both at a time.

    Diagonal by diagonal, whose cells do not need each other. Of equal ways it takes the one along the frames.
    """
    tokens, frames = costs.shape
    total = np.full((tokens + 1, frames + 1), np.inf)
    total[0, 0] = 0
    came = np.zeros((tokens + 1, frames + 1), np.int8)  # 0: both, 1: the token before, 2: the frame before
    for diagonal in range(2, tokens + frames + 1):
        row = np.arange(max(1, diagonal - frames), min(tokens, diagonal - 1) + 1)
        column = diagonal - row
        both, token, frame = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        step = np.where(frame <= np.minimum(both, token), 2, np.where(both <= token, 0, 1))
        came[row, column] = step
        total[row, column] = costs[row - 1, column - 1] + np.choose(step, (both, token, frame))
    came[0, :], came[:, 0] = 2, 1
    path = []
    row_, column_ = tokens, frames
    while row_ > 0 or column_ > 0:
        path.append((row_ - 1, column_ - 1))
        step_ = came[row_, column_]
        row_, column_ = row_ - (step_ != 2), column_ - (step_ != 1)
    return [(int(one), int(other)) for one, other in reversed(path)]
