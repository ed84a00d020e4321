"""Durations for rows that give none, from the headers of their objects. Knows nothing of formats and decoders.

Threads wait for headers side by side, each with a reader of its own; results land in columns, a block at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Protocol

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


def probe_each(
    batches: Iterable[list[Recording]], open_reader: Callable[[], Prober], workers: int
) -> Iterator[list[Probe | AudioError]]:
    """For each batch of recordings what their headers say, in their order; what cannot be read gives its error.

    A batch is asked when it is wanted: the corpus is never held.
    """
    local, lock = threading.local(), threading.Lock()

    with ExitStack() as readers:

        def open_one() -> None:
            local.reader = open_reader()
            with lock:
                readers.callback(local.reader.close)

        def ask(recording: Recording) -> Probe | AudioError:
            try:
                reader: Prober = local.reader
                return reader.probe(recording)
            except AudioError as error:
                return error

        with ThreadPoolExecutor(workers, thread_name_prefix="probe", initializer=open_one) as pool:
            for batch in batches:
                yield list(pool.map(ask, batch))


def _probe_all(
    asked: pa.Table, open_reader: Callable[[], Prober], workers: int, progress: Callable[[int, int], None]
) -> pa.Table:
    lock = threading.Lock()
    done = 0

    class Counted:
        """A reader that tells of every header."""

        def __init__(self) -> None:
            self._reader = open_reader()
            self.close = self._reader.close

        def probe(self, recording: Recording) -> Probe:
            nonlocal done
            try:
                return self._reader.probe(recording)
            finally:
                with lock:
                    done += 1
                    progress(done, asked.num_rows)

    batches = ([Recording(**row) for row in batch.to_pylist()] for batch in asked.to_batches(max_chunksize=_BLOCK))
    answers = [_answers_table(found) for found in probe_each(batches, Counted, workers)]
    return pa.concat_tables([pa.schema(PROBE_FIELDS).empty_table(), *answers]).combine_chunks()


def _answers_table(answers: list[Probe | AudioError]) -> pa.Table:
    probes = [answer if isinstance(answer, Probe) else None for answer in answers]
    columns = [
        pa.array([probe.duration_s if probe else None for probe in probes], pa.float64()),
        pa.array([probe.size_bytes if probe else None for probe in probes], pa.int64()),
        pa.array([probe.etag if probe else None for probe in probes], pa.string()),
    ]
    return pa.table(columns, schema=pa.schema(PROBE_FIELDS))
