"""What a manifest that is read again has new against the rows that are planned, and whether it still has those as they were.

Kept of each planned recording are 16 bytes: a hash of its id and one of what its row said. Python's own hash is salted anew in
every process: nobody can prepare rows that collide, and where two ids do by chance (10 M new ones against 10 M planned: 1 in
200,000), the run is refused for a row that seems changed, and the same command sets it right.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.plan import spelled

# What the row of a planned recording may not change; pass-through columns may.
_KEPT = (
    *("uri", "offset_s", "duration_s", "channel", "language", "task", "target_language", "keywords", "reference_text"),
    "speakers",
)
PLANNED_COLUMNS = ("id", *_KEPT, "open_end", "window_index")

_Hashes = npt.NDArray[np.int64]


class PlannedRows:
    """The rows that a run has planned. `windows`: tables of PLANNED_COLUMNS of its plan; `recordings`: how many it has."""

    def __init__(self, windows: Iterable[pa.Table], recordings: int) -> None:
        self._ids = np.zeros(recordings, np.int64)
        self._rows = np.zeros(recordings, np.int64)
        stop = 0
        for table in windows:
            start, (ids, rows) = stop, _hashes(_as_rows(table))
            stop += len(ids)
            self._ids[start:stop], self._rows[start:stop] = ids, rows
        order = np.argsort(self._ids)
        self._ids, self._rows = self._ids[order], self._rows[order]
        self._found = np.zeros(recordings, bool)

    def new(self, rows: pa.Table) -> tuple[pa.Table, pa.Array]:
        """Of some manifest rows those that are not planned; and the ids of those that were planned otherwise."""
        ids, contents = _hashes(rows)
        place = np.minimum(np.searchsorted(self._ids, ids), max(len(self._ids) - 1, 0))
        known = self._ids[place] == ids if len(self._ids) else np.zeros(len(ids), bool)
        self._found[place[known]] = True
        changed = known.copy()
        changed[known] = self._rows[place[known]] != contents[known]
        return rows.filter(pa.array(~known)), rows["id"].filter(pa.array(changed)).combine_chunks()

    @property
    def missing(self) -> int:
        """Planned recordings that `new` has not met."""
        return len(self._found) - int(np.count_nonzero(self._found))


def _as_rows(windows: pa.Table) -> pa.Table:
    """The rows behind the windows. A probed duration is not the row's: there, the row gave none."""
    firsts = windows.filter(pc.equal(windows["window_index"], 0))
    given = pc.if_else(firsts["open_end"], pa.scalar(None, pa.float64()), firsts["duration_s"])
    return firsts.set_column(firsts.schema.get_field_index("duration_s"), "duration_s", given)


def _hashes(rows: pa.Table) -> tuple[_Hashes, _Hashes]:
    """Of each row's id and of the rest of it. What was planned of it from a window of 0 s and from no duration is the same."""
    rows = rows.set_column(rows.schema.get_field_index("offset_s"), "offset_s", pc.add(rows["offset_s"], 0.0))  # -0.0
    return tuple(_hashed(column) for column in (rows["id"], spelled(rows, _KEPT)))  # type: ignore[return-value]


def _hashed(texts: pa.Array | pa.ChunkedArray) -> _Hashes:
    return np.fromiter((hash(text) for text in texts.to_pylist()), np.int64, len(texts))
