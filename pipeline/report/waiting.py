"""Who waited for whom while a run went on: engine seconds at work and idle, and decoded shards in line, over wall time.

Every `quarry run` is a session; the time between sessions is left out. A shard's engine seconds are spread evenly over its call,
which other calls may share; what was waited lies before the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ["done_at", "call_s", "engine_s", "wait_s", "queued_s"]
_BINS = 60
_SLACK_S = 5.0  # clocks of workers, and the starts of sessions, which are noted to the second

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """One bin of wall time: engine workers at work (`busy`) and idle (`waiting`), and decoded shards `in_line` for one."""

    start_s: float
    end_s: float
    busy: float
    waiting: float
    in_line: float


class Waiting:
    """Sums over shards in bins of wall time."""

    def __init__(self, sessions: Sequence[dict[str, Any]], bins: int = _BINS) -> None:
        walls_s = [float(session["wall_s"]) for session in sessions]
        self._begins_s = np.array([datetime.fromisoformat(session["started_at"]).timestamp() for session in sessions])
        self._lasts_s = np.array(walls_s)
        self._offsets_s = np.concatenate([[0.0], np.cumsum(walls_s)])
        self._edges_s = np.linspace(0.0, float(self._offsets_s[-1]), bins + 1)
        self._sums = np.zeros((3, bins))
        self.placed = self.unplaced = 0

    @property
    def borders_s(self) -> list[float]:
        """Where one session ends and the next begins, in seconds of wall time."""
        return [float(offset) for offset in self._offsets_s[1:-1]]

    def add(self, shards: pa.RecordBatch) -> None:
        """Take rows with COLUMNS."""
        known = shards.filter(shards["done_at"].is_valid())
        done_s = pc.cast(known["done_at"], pa.int64()).to_numpy() / 1000
        call_s, engine_s, wait_s, queued_s = (
            pc.fill_null(known[name], 0.0).to_numpy(zero_copy_only=False) for name in COLUMNS[1:]
        )
        session = np.searchsorted(self._begins_s - _SLACK_S, done_s, side="right") - 1
        at_s = done_s - self._begins_s[session] if len(self._begins_s) else done_s
        inside = (session >= 0) & (at_s <= self._lasts_s[session] + _SLACK_S) if len(self._begins_s) else done_s < 0
        self.placed += int(inside.sum())
        self.unplaced += shards.num_rows - int(inside.sum())
        session, at_s = session[inside], at_s[inside]
        ends_s = self._offsets_s[session] + np.clip(at_s, 0.0, self._lasts_s[session])
        first_s = self._offsets_s[session]
        begins_s = np.maximum(ends_s - call_s[inside], first_s)
        density = np.minimum(1.0, engine_s[inside] / np.maximum(ends_s - begins_s, 1e-6))
        self._sums[0] += self._seconds(begins_s, ends_s, density)
        self._sums[1] += self._seconds(np.maximum(begins_s - wait_s[inside], first_s), begins_s)
        self._sums[2] += self._seconds(np.maximum(begins_s - queued_s[inside], first_s), begins_s)

    def intervals(self) -> list[Interval]:
        """The bins in order; empty where nothing could be placed."""
        width_s = self._edges_s[1] - self._edges_s[0]
        if not self.placed or width_s <= 0:
            return []
        edges, means = self._edges_s.tolist(), (self._sums / width_s).T.tolist()
        return [Interval(edges[at], edges[at + 1], *mean) for at, mean in enumerate(means)]

    def _seconds(self, low_s: Numbers, high_s: Numbers, density: Numbers | float = 1.0) -> Numbers:
        """How many seconds of the intervals lie in each bin."""
        return np.diff([((np.clip(edge, low_s, high_s) - low_s) * density).sum() for edge in self._edges_s])
