"""How far an error rate could have come out otherwise: a bootstrap over recordings, one pass, fixed memory.

Each replicate takes every recording a Poisson(1) number of times, which is the bootstrap's resampling with replacement where
the number of recordings is not fixed beforehand (Chamandy et al., "Estimating uncertainty for massive data streams", 2012).
So sums per replicate are all that is kept, and the corpus may be of any size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

REPLICATES = 1000
SEED = 20_260_101
_ROWS_AT_ONCE = 128  # small enough that BLAS starts no threads: they cost 100 times the sum on a busy machine

Counts = npt.NDArray[np.int64]


def _poisson_table() -> npt.NDArray[np.uint8]:
    """Poisson(1) by 16 random bits: several times faster than drawing each weight."""
    cumulative = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    return np.searchsorted(cumulative, (np.arange(65_536) + 0.5) / 65_536).astype(np.uint8)


_POISSON = _poisson_table()


def poisson_weights(random: np.random.Generator, rows: int, replicates: int) -> npt.NDArray[np.uint8]:
    """How often each replicate takes each of some rows, [rows, replicates]."""
    return _POISSON[random.integers(0, 65_536, size=(rows, replicates), dtype=np.uint16)]


def interval_of(sums: npt.NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float] | None:
    """Low and high end of the rate of sums [errors and lengths, replicates]; None where no replicate has a reference."""
    errors, lengths = sums[:, sums[1] > 0]
    if not lengths.size:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(errors / lengths, [tail, 1 - tail])
    return float(low), float(high)


class Bootstrap:
    """Sums of errors and reference lengths in every replicate. The same rows in the same order give the same interval."""

    def __init__(self, seed: int = SEED, replicates: int = REPLICATES) -> None:
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._sums = np.zeros((2, replicates))
        self._scored = 0

    def add(self, errors: Counts, lengths: Counts) -> None:
        """Take the errors and reference lengths of some recordings, int [n] each."""
        self._scored += int(np.count_nonzero(lengths))
        both = np.stack([errors, lengths]).astype(np.float64)
        for start in range(0, both.shape[1], _ROWS_AT_ONCE):
            some = both[:, start : start + _ROWS_AT_ONCE]
            self._sums += some @ poisson_weights(self._random, some.shape[1], self._sums.shape[1])

    def rates(self) -> npt.NDArray[np.float64]:
        """The error rate in every replicate; NaN in those without a reference."""
        errors, lengths = self._sums
        return np.divide(errors, lengths, out=np.full_like(errors, np.nan), where=lengths > 0)

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Low and high end of the error rate; None of fewer than two recordings with a reference: one shows no spread."""
        return interval_of(self._sums, confidence) if self._scored > 1 else None


def bootstrap_interval(errors: Counts, lengths: Counts) -> tuple[float, float] | None:
    """The 95 % interval of sum(errors) / sum(lengths), both int [rows]; None where the reference is empty."""
    bootstrap = Bootstrap()
    bootstrap.add(errors, lengths)
    return bootstrap.interval()


def mean_interval(bootstraps: Sequence[Bootstrap]) -> tuple[float, float] | None:
    """The 95 % interval of the unweighted mean of several error rates, whose bootstraps have different seeds."""
    rates = np.mean([bootstrap.rates() for bootstrap in bootstraps], axis=0)
    known = rates[~np.isnan(rates)]
    return interval_of(np.stack([known, np.ones_like(known)]))
