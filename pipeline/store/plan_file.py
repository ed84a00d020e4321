"""A plan part before it is published: its Parquet file on the local disk, a row group in memory at a time.

The bytes are a function of the plan alone: row groups end where shards end, and each is written from one piece.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.plan import PLAN_SCHEMA, PlanTotals, add_totals, totals
from pipeline.spool import WorkingFiles, on_local_disk

# Shards are read back a row group at a time; a footer of 100 000 row groups would cost more than the rows.
_WINDOWS_PER_ROW_GROUP = 5_000

ENTRIES = pa.schema(
    [
        ("shard_id", pa.string()),
        ("plan_key", pa.string()),
        ("row_group", pa.int32()),
        ("windows", pa.int32()),
        ("audio_s", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class PlanFile:
    """A plan part that nobody has seen yet. Its file is one of `files`, and goes with the last reference to them."""

    path: Path
    sha256: str
    totals: PlanTotals
    entries: pa.Table  # of ENTRIES, without the key that the plan is to have: some 50 bytes per shard
    files: WorkingFiles

    def entries_at(self, plan_key: str) -> pa.Table:
        """ENTRIES of a plan that is published under a key."""
        chunks = [pa.repeat(pa.scalar(plan_key), len(chunk)) for chunk in self.entries["shard_id"].chunks]
        keys = pa.chunked_array(chunks, pa.string())
        return self.entries.append_column("plan_key", keys).select(ENTRIES.names)


def write_plan_file(blocks: Iterable[pa.Table], files: WorkingFiles | None = None) -> PlanFile:
    """The plan part of blocks of whole shards (`pipeline.plan.plan_blocks`), whose other working files live as long.

    Raises RunError when the local disk does not take it.
    """
    files = files or WorkingFiles()
    path = files.new()
    entries = [_entries_of(PLAN_SCHEMA.empty_table(), 0)]
    sums = []
    with on_local_disk():
        writer = pq.ParquetWriter(path, PLAN_SCHEMA, compression="zstd")
    for number, group in enumerate(_row_groups(blocks)):
        with on_local_disk():
            writer.write_table(group, row_group_size=group.num_rows)
        entries.append(_entries_of(group, number))
        sums.append(totals(group))
    with on_local_disk():
        writer.close()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    whole = reduce(add_totals, sums, PlanTotals(0, 0, 0, 0.0, 0))
    return PlanFile(path, digest, whole, pa.concat_tables(entries), files)


def _row_groups(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Blocks of whole shards as row groups: at least _WINDOWS_PER_ROW_GROUP windows each, up to the end of a shard."""
    waiting = PLAN_SCHEMA.empty_table()
    for block in blocks:
        waiting = pa.concat_tables([waiting, block]).combine_chunks()
        ids = waiting["shard_id"].combine_chunks()
        start = 0
        while len(ids) - start >= _WINDOWS_PER_ROW_GROUP:
            stop = start + _WINDOWS_PER_ROW_GROUP
            while stop < len(ids) and ids[stop] == ids[stop - 1]:
                stop += 1
            yield waiting.slice(start, stop - start).combine_chunks()
            start = stop
        waiting = waiting.slice(start)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def _entries_of(windows: pa.Table, row_group: int) -> pa.Table:
    """One row per shard, whose windows lie together. Not by `group_by`: where its hashes collide, groups change places."""
    ids = windows["shard_id"].combine_chunks()
    seconds = pc.subtract(windows["end_s"], windows["start_s"]).to_numpy()
    is_first = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.append(len(ids) > 0, is_first))
    columns = {
        "shard_id": ids.take(pa.array(starts)),
        "row_group": pa.repeat(pa.scalar(row_group, pa.int32()), len(starts)),
        "windows": pa.array(np.diff(starts, append=len(ids)), pa.int32()),
        "audio_s": pa.array(np.add.reduceat(seconds, starts) if len(starts) else [], pa.float64()),
    }
    return pa.table(columns)
