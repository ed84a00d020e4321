"""Windows of long recordings, as their parts come by, made into recordings again."""

from __future__ import annotations

import pyarrow as pa

from pipeline.records import Transcript
from pipeline.schema import transcript_of
from pipeline.text.stitch import join_windows


class WindowJoiner:
    """Holds the windows of long recordings until all of one are there: texts, no audio, few at a time (windows lie together)."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[tuple[Transcript, str]]] = {}

    def add(self, rows: pa.Table) -> list[tuple[Transcript, str]]:
        """Take window rows; give back the recordings that became complete, each with its first shard."""
        complete = []
        for row in rows.to_pylist():
            waiting = self._waiting.setdefault(row["id"], [])
            waiting.append((transcript_of(row), row["shard_id"]))
            if len(waiting) == row["window_count"]:
                windows = sorted(self._waiting.pop(row["id"]), key=lambda pair: pair[0].window_index)
                complete.append((join_windows([window for window, _ in windows]), windows[0][1]))
        return complete

    @property
    def incomplete(self) -> list[str]:
        """Recordings of which some windows never came."""
        return list(self._waiting)
