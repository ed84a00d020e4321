"""Durations for rows that give none, from the headers of their objects. Knows nothing of formats and decoders.

Threads wait for headers side by side, each with a reader of its own; results land in columns, a block at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import AudioError
from pipeline.records import Probe, Recording

PROBE_FIELDS = (
    pa.field("probe_duration_s", pa.float64()),  # from the row's offset on; null: given by the row, or not to be had
    pa.field("size_bytes", pa.int64()),
    pa.field("etag", pa.string()),
)

_BLOCK = 4_096


class Prober(Protocol):
    """What this module needs of `pipeline.audio.reader.AudioReader`."""

    def probe(self, recording: Recording) -> Probe:
        """The recording's length, from its offset on. Raises AudioError."""
        ...

    def close(self) -> None:
        """Give back what the reader holds."""
        ...


def probe_missing(
    rows: pa.Table,
    open_reader: Callable[[], Prober],
    workers: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> pa.Table:
    """The rows with the columns PROBE_FIELDS, filled where `duration_s` is null.

    A header that cannot be read leaves nulls: the row is planned all the same, and decided when it is decoded.
    `progress(done, total)` is called after every header, from the threads that read them.
    """
    missing = pc.is_null(rows["duration_s"])
    asked = rows.filter(missing).select(["id", "uri", "offset_s", "channel"])
    found = _probe_all(asked, open_reader, workers, progress)
    # Row n of `rows` takes the answer to the question it was: its place among the rows that asked.
    place = pc.if_else(missing, pc.subtract(pc.cumulative_sum(missing.cast(pa.int64())), 1), None)
    for field in PROBE_FIELDS:
        rows = rows.append_column(field, found[field.name].take(place))
    return rows


def _probe_all(
    asked: pa.Table, open_reader: Callable[[], Prober], workers: int, progress: Callable[[int, int], None]
) -> pa.Table:
    local, lock = threading.local(), threading.Lock()
    done = 0

    with ExitStack() as readers:

        def open_one() -> None:
            local.reader = open_reader()
            with lock:
                readers.callback(local.reader.close)

        def ask(row: dict[str, Any]) -> Probe | None:
            nonlocal done
            try:
                reader: Prober = local.reader
                return reader.probe(Recording(**row))
            except AudioError:
                return None
            finally:
                with lock:
                    done += 1
                    progress(done, asked.num_rows)

        answers = [pa.schema(PROBE_FIELDS).empty_table()]
        with ThreadPoolExecutor(workers, thread_name_prefix="probe", initializer=open_one) as pool:
            for batch in asked.to_batches(max_chunksize=_BLOCK):
                answers.append(_answers_table(list(pool.map(ask, batch.to_pylist()))))
    return pa.concat_tables(answers).combine_chunks()


def _answers_table(probes: list[Probe | None]) -> pa.Table:
    columns = [
        pa.array([probe.duration_s if probe else None for probe in probes], pa.float64()),
        pa.array([probe.size_bytes if probe else None for probe in probes], pa.int64()),
        pa.array([probe.etag if probe else None for probe in probes], pa.string()),
    ]
    return pa.table(columns, schema=pa.schema(PROBE_FIELDS))
