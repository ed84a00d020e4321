"""The seven-set mix: lengths of the clips on which speed is measured here.

72 thousand clips with the sizes of the seven public test sets that the Open ASR leaderboard measures speed on. Lengths are
synthetic: log-normal shapes fitted to each set's published clip count and hours. Deterministic. Needs numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SEED = 20_260

Lengths = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClipSet:
    """A test set: published clips and hours; the limits and the spread of the log-normal shape are ours."""

    name: str
    clips: int
    hours: float
    shortest_s: float
    longest_s: float
    spread: float


SETS = (
    ClipSet("AMI", 7_715, 7.98, 0.1, 30.0, 1.0),
    ClipSet("GigaSpeech", 18_757, 35.1, 0.5, 20.0, 0.7),
    ClipSet("LibriSpeech test-clean", 2_620, 5.40, 1.3, 35.0, 0.7),
    ClipSet("LibriSpeech test-other", 2_939, 5.34, 1.3, 35.0, 0.7),
    ClipSet("SPGISpeech", 39_341, 100.0, 5.0, 15.0, 0.35),
    ClipSet("VoxPopuli", 628, 1.98, 1.0, 40.0, 0.6),
    ClipSet("Earnings22, chunked", 341, 1.92, 1.0, 40.0, 0.5),
)


def clip_lengths(clip_set: ClipSet, rng: np.random.Generator) -> Lengths:
    """Lengths whose sum is the set's hours: the location of the log-normal is found by bisection."""
    shape = np.exp(clip_set.spread * rng.standard_normal(clip_set.clips))
    low, high = 0.0, clip_set.longest_s
    for _ in range(60):
        scale = (low + high) / 2
        lengths = (scale * shape).clip(clip_set.shortest_s, clip_set.longest_s)
        low, high = (scale, high) if lengths.sum() < clip_set.hours * 3600 else (low, scale)
    return lengths


def clips() -> Lengths:
    """The lengths in seconds of all sets' clips, in one random order."""
    rng = np.random.default_rng(SEED)
    return rng.permutation(np.concatenate([clip_lengths(clip_set, rng) for clip_set in SETS]))
