"""Counts of values in fixed bins, table by table: memory does not grow with what is counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Edges = npt.NDArray[np.float64]

DURATION_EDGES_S: Edges = np.geomspace(0.1, 360_000.0, 1 + 46)  # of the last bin, 100 h; a factor of 1.4 each
CONFIDENCE_EDGES: Edges = np.linspace(0.0, 1.0, 1 + 40)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin: values of [low, high), the last bin of all with its high end."""

    low: float
    high: float
    count: int


class Histogram:
    """Values outside the edges count in the bin next to them; null and NaN count as `missing`."""

    def __init__(self, edges: Edges) -> None:
        self._edges = edges
        self._counts = np.zeros(len(edges) - 1, np.int64)
        self.missing = 0

    def add(self, values: pa.Array) -> None:
        """Take a column of numbers."""
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
        known = numbers[~np.isnan(numbers)]
        self.missing += len(numbers) - len(known)
        self._counts += np.histogram(np.clip(known, self._edges[0], self._edges[-1]), self._edges)[0]

    @property
    def total(self) -> int:
        """Values that were counted in a bin."""
        return int(self._counts.sum())

    def bars(self, trimmed: bool = True) -> list[Bar]:
        """The bins in order; `trimmed`: from the first that is not empty to the last."""
        filled = np.flatnonzero(self._counts)
        if trimmed and not filled.size:
            return []
        first, last = (int(filled[0]), int(filled[-1])) if trimmed else (0, len(self._counts) - 1)
        return [
            Bar(float(self._edges[at]), float(self._edges[at + 1]), int(self._counts[at]))
            for at in range(first, last + 1)
        ]

    def quantile(self, share: float) -> float | None:
        """About the value below which this share of the values lies, from the bins; None where there are none."""
        if not self.total:
            return None
        below = np.concatenate([[0], np.cumsum(self._counts)])
        return float(np.interp(share * self.total, below, self._edges))
