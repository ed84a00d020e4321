"""Durations for rows that give none, from the headers of their objects. Knows nothing of formats and decoders.

Threads wait for headers side by side, each with a reader of its own; results land in columns, a block at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.member import row_group_of
from pipeline.errors import AudioError
from pipeline.records import Probe, Recording

PROBE_FIELDS = (
    pa.field("probe_duration_s", pa.float64()),  # from the row's offset on; null: given by the row, or not to be had
    pa.field("size_bytes", pa.int64()),
    pa.field("etag", pa.string()),
    pa.field("probe_channels", pa.int32()),  # null: not known
)

_ASKED = ["id", "uri", "offset_s", "channel"]
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
    asked = rows.filter(missing).select(_ASKED)
    blocks = (asked.slice(start, _BLOCK) for start in range(0, asked.num_rows, _BLOCK))
    answers = [pa.schema(PROBE_FIELDS).empty_table()]
    for block in probe_blocks(blocks, asked.num_rows, open_reader, workers, progress):
        answers.append(block.select([field.name for field in PROBE_FIELDS]))
    found = pa.concat_tables(answers).combine_chunks()
    # Row n of `rows` takes the answer to the question it was: its place among the rows that asked.
    place = pc.if_else(missing, pc.subtract(pc.cumulative_sum(missing.cast(pa.int64())), 1), None)
    for field in PROBE_FIELDS:
        rows = rows.append_column(field, found[field.name].take(place))
    return rows


def probe_blocks(
    blocks: Iterable[pa.Table],
    total: int,
    open_reader: Callable[[], Prober],
    workers: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[pa.Table]:
    """`probe_missing` for rows that come in blocks of some thousands, `total` in all, none of which gives its duration."""
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
                    progress(done, total)

    asked: deque[pa.Table] = deque()

    def questions() -> Iterator[list[Recording]]:
        for block in blocks:
            asked.append(block)
            yield [Recording(**row) for row in block.select(_ASKED).to_pylist()]

    for answers in probe_each(questions(), Counted, workers):
        block = asked.popleft()
        for field, column in zip(PROBE_FIELDS, _columns(answers), strict=True):
            block = block.append_column(field, column)
        yield block


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
                answers = pool.map(lambda run: [ask(one) for one in run], _runs(batch))
                yield [answer for run in answers for answer in run]


def _runs(batch: list[Recording]) -> list[list[Recording]]:
    """What one thread should ask: rows of one Parquet row group, which is read forward; any other recording by itself."""
    return [list(run) for _, run in groupby(batch, lambda one: row_group_of(one.uri) or one.id)]


def _columns(answers: list[Probe | AudioError]) -> tuple[pa.Array, ...]:
    """PROBE_FIELDS of some answers."""
    probes = [answer if isinstance(answer, Probe) else None for answer in answers]
    return (
        pa.array([probe.duration_s if probe else None for probe in probes], pa.float64()),
        pa.array([probe.size_bytes if probe else None for probe in probes], pa.int64()),
        pa.array([probe.etag if probe else None for probe in probes], pa.string()),
        pa.array([probe.channels or None if probe else None for probe in probes], pa.int32()),
    )
