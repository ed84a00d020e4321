"""Rows on the local disk, for what is too large for memory: in the order they came, or in the order of a plan.

A sort outside of memory: what has come so far is sorted and written down as a run, a piece at a time; then the pieces of all
runs are read in the order of their first rows. A row may be given back when no piece that is still unread begins before it.
In memory are a run, then about two pieces of each. The order is that of `in_plan_order`, however the rows came.
"""

from __future__ import annotations

import tempfile
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from pipeline.errors import RunError
from pipeline.plan import ROWS_SCHEMA, in_plan_order

_RUN_BYTES = 64 * 2**20
_PIECE_ROWS = 4_096
_PIECE_BYTES = 256 * 2**10  # rows of long texts come in smaller pieces: there is one of each run in memory
_PIECES_AT_ONCE = 16  # read before the next look at what may be given back; at least one of each run
_CODEC = "lz4"

_Key = tuple[str, float, str]  # smaller: earlier in the plan


class WorkingFiles:
    """Files of our own on the local disk (TMPDIR) without names: gone with the last reference to them, and with the process,
    however it ends.
    """

    def __init__(self) -> None:
        self._files: list[IO[bytes]] = []
        self.remove = weakref.finalize(self, _close, self._files)

    def new(self) -> Path:
        """An empty file, by a path that this process alone can open. Raises RunError."""
        with on_local_disk():
            file = tempfile.TemporaryFile()  # noqa: SIM115  open as long as it is wanted
        self._files.append(file)
        return Path(f"/proc/self/fd/{file.fileno()}")


def _close(files: list[IO[bytes]]) -> None:
    for file in files:
        file.close()


@contextmanager
def on_local_disk() -> Iterator[None]:
    """Local reads and writes in the block that fail become one sentence. Raises RunError."""
    try:
        yield
    except OSError as error:
        reason = " ".join(str(error).split())[:200].rstrip(".: ")
        raise RunError(
            f"A plan is put together on the local disk, and {tempfile.gettempdir()} does not take it ({reason}); "
            "make room there (about twice the manifest), or name another folder in the environment variable TMPDIR."
        ) from error


class RowFile:
    """Tables of one schema, written once and read back in the order they came."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._schema = path, schema
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self.rows = 0
        self.pieces = 0

    def add(self, table: pa.Table, piece_rows: int = _PIECE_ROWS) -> None:
        """Append rows, `piece_rows` to a piece."""
        with on_local_disk():
            if self._writer is None:
                options = pa.ipc.IpcWriteOptions(compression=_CODEC)
                self._writer = pa.ipc.new_file(str(self._path), self._schema, options=options)
            for batch in table.combine_chunks().to_batches(max_chunksize=piece_rows):
                self._writer.write_batch(batch)
                self.rows, self.pieces = self.rows + batch.num_rows, self.pieces + 1

    @contextmanager
    def read(self) -> Iterator[Callable[[int], pa.RecordBatch]]:
        """What gives each piece by its number. Nothing can be added any more."""
        with on_local_disk():
            if self._writer is None:
                raise ValueError("a row file without rows has no pieces")
            self._writer.close()
            # Not mapped: pages of a mapped file count as this process's memory.
            file = pa.OSFile(str(self._path))
        with file:
            reader = pa.ipc.open_file(file)

            def piece(number: int) -> pa.RecordBatch:
                with on_local_disk():
                    return reader.get_batch(number)

            yield piece

    def __iter__(self) -> Iterator[pa.Table]:
        """Piece by piece."""
        if self.pieces:
            with self.read() as piece:
                yield from (pa.Table.from_batches([piece(number)]) for number in range(self.pieces))


class PlanSorter:
    """Takes rows of ROWS_SCHEMA in any order and gives them back in the order of a plan. Ids must be unique."""

    def __init__(self, path: Path) -> None:
        self._file = RowFile(path, ROWS_SCHEMA)
        self._waiting: list[pa.Table] = []
        self._waiting_bytes = 0
        self._runs = 0
        self._firsts: list[_Key] = []  # of each piece

    def add(self, rows: pa.Table) -> None:
        """Take some rows."""
        if rows.num_rows:
            self._waiting.append(rows)
            self._waiting_bytes += rows.nbytes
        if self._waiting_bytes >= _RUN_BYTES:
            self._write_run()

    @property
    def rows(self) -> int:
        """How many have come."""
        return self._file.rows + sum(map(len, self._waiting))

    def ordered(self) -> Iterator[pa.Table]:
        """All rows, table after table. Call it once, at the end."""
        if not self._runs:
            if self._waiting:
                yield in_plan_order(pa.concat_tables(self._waiting))
            return
        if self._waiting:
            self._write_run()
        yield from self._merged()

    def _write_run(self) -> None:
        run = in_plan_order(pa.concat_tables(self._waiting))
        self._waiting, self._waiting_bytes = [], 0
        piece_rows = max(1, min(_PIECE_ROWS, run.num_rows * _PIECE_BYTES // max(run.nbytes, 1)))
        self._firsts += [_key(run, row) for row in range(0, run.num_rows, piece_rows)]
        self._file.add(run, piece_rows)
        self._runs += 1

    def _merged(self) -> Iterator[pa.Table]:
        pieces = sorted(range(len(self._firsts)), key=self._firsts.__getitem__)
        at_once = max(self._runs, _PIECES_AT_ONCE)
        with self._file.read() as read:
            waiting = ROWS_SCHEMA.empty_table()
            for start in range(0, len(pieces), at_once):
                some = pa.Table.from_batches([read(piece) for piece in pieces[start : start + at_once]])
                waiting = in_plan_order(pa.concat_tables([waiting, some]))
                following = pieces[start + at_once : start + at_once + 1]
                stop = _rows_before(waiting, self._firsts[following[0]]) if following else waiting.num_rows
                if stop:
                    yield waiting.slice(0, stop)
                waiting = waiting.slice(stop)


def _key(rows: pa.Table, row: int) -> _Key:
    return rows["place"][row].as_py(), -rows["window_s"][row].as_py(), rows["id"][row].as_py()


def _rows_before(ordered: pa.Table, bound: _Key) -> int:
    """How many of the rows come before `bound`. Strings compare by code points here and by bytes of UTF-8 in Arrow: the same."""
    return bisect_left(range(ordered.num_rows), bound, key=lambda row: _key(ordered, row))
