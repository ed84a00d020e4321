"""What a run is to do and what is done: the plan, immutable, minus the parts that exist. Nothing else is state.

<run>/plan/0000-<hash>.parquet   one row per window, written first
<run>/plan/0000-<hash>.shards.parquet   one row per shard: what a driver that resumes needs of it
<run>/plan/0000.json             names it: its presence is the plan part; a grown manifest adds 0001, 0002 …
<run>/parts/<hh>/<shard>.parquet presence = decided
<run>/sessions/0000.json         what one `quarry run` did, for the wall clock
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DriftError, StoreError
from pipeline.plan import PLAN_SCHEMA, PlanTotals, shards_of
from pipeline.records import Shard
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import list_parts, table_of

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
class PlanPart:
    """One plan part's header."""

    key: str
    sha256: str
    shards_key: str
    shards_sha256: str
    manifest: str
    manifest_digest: str
    fingerprint: str
    schema_version: int
    model_revision: str
    totals: PlanTotals
    config: dict[str, Any]
    expected: dict[str, Any] | None = None  # Expense, as it was when this part was planned; older plans have none


@dataclass(frozen=True, slots=True)
class Session:
    """What one `quarry run` did."""

    started_at: str
    first_commit_s: float  # from the start of the pass: Ray, the engine's weights, the first shard
    wall_s: float  # of the whole pass, start-up included
    audio_s: float
    shards: int
    engine_workers: int
    hardware: str
    versions: dict[str, str]
    usd_per_hour: float | None = None  # of all machines together; None: nobody had said


class Ledger:
    """The bookkeeping of one run. `store` is rooted at the run's folder."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def plan_parts(self) -> list[PlanPart]:
        """Headers of the plan parts, oldest first; empty: no plan yet."""
        keys = sorted(info.key for info in self.store.list("plan/") if info.key.endswith(".json"))
        return [_plan_part_of(self.store, key) for key in keys]

    def add_plan_part(self, number: int, table: pa.Table, header: dict[str, Any]) -> PlanPart:
        """Write plan part `number`: the number of parts there were when `table` was worked out.

        Raises DriftError when another driver has written another plan under this number meanwhile.
        """
        data, group_rows = _plan_bytes(table)
        digest = hashlib.sha256(data).hexdigest()
        key = f"plan/{number:04d}-{digest[:12]}.parquet"
        shards = _shards_bytes(table, key, group_rows)
        part = PlanPart(
            key=key,
            sha256=digest,
            shards_key=key.replace(".parquet", ".shards.parquet"),
            shards_sha256=hashlib.sha256(shards).hexdigest(),
            **header,
        )
        self.store.put_if_absent(key, data)
        self.store.put_if_absent(part.shards_key, shards)
        header_key = f"plan/{number:04d}.json"
        if self.store.put_if_absent(header_key, json.dumps(asdict(part), indent=1).encode()):
            return part
        theirs = _plan_part_of(self.store, header_key)
        if theirs.sha256 != digest:
            raise DriftError(
                "Another driver planned this run from another manifest meanwhile; run the same command again."
            )
        return theirs

    def planned_windows(self, columns: list[str] | None = None) -> pa.Table:
        """The whole plan, one row per window (or some of its columns)."""
        tables = [table_of(self._checked(part.key, part.sha256), columns) for part in self.plan_parts()]
        return pa.concat_tables(tables)

    def planned_recordings(self, ids: pa.Array) -> pa.Table:
        """What the plan knows of some recordings: the first window of each, a row group in memory at a time."""
        found = [PLAN_SCHEMA.empty_table()]
        for part in self.plan_parts():
            file = pq.ParquetFile(BytesIO(self._checked(part.key, part.sha256)))
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                wanted = pc.and_(pc.equal(rows["window_index"], 0), pc.is_in(rows["id"], value_set=ids))
                found.append(rows.filter(wanted))
        return pa.concat_tables(found, promote_options="default").combine_chunks()

    def entries(self) -> pa.Table:
        """One row of ENTRIES per planned shard, in plan order: where to find it and how long it is."""
        tables = [table_of(self._checked(part.shards_key, part.shards_sha256)) for part in self.plan_parts()]
        found = pa.concat_tables(tables) if tables else ENTRIES.empty_table()
        if pc.count_distinct(found["shard_id"]).as_py() != found.num_rows:
            raise StoreError(f"The plan at {self.store} holds a shard twice; give this run another `name`.")
        return found

    def todo(self, entries: pa.Table) -> pa.Table:
        """Those of the plan's entries whose part does not exist."""
        done = pa.array([part.shard_id for part in list_parts(self.store)], pa.string())
        return entries.filter(pc.invert(pc.is_in(entries["shard_id"], done)))

    def shards(self) -> Iterator[Shard]:
        """Every planned shard in order, a row group in memory at a time."""
        for part in self.plan_parts():
            file = pq.ParquetFile(BytesIO(self._checked(part.key, part.sha256)))
            for group in range(file.num_row_groups):
                yield from shards_of(file.read_row_group(group))

    def _checked(self, key: str, sha256: str) -> bytes:
        data = self.store.get(key)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StoreError(f"The plan {key} is not the one that was written; give the run another name.")
        return data

    def sessions(self) -> list[Session]:
        """What was recorded of earlier and this run's sessions."""
        keys = sorted(info.key for info in self.store.list("sessions/"))
        return [Session(**read_json(self.store, key)) for key in keys]

    def add_session(self, session: Session) -> None:
        """Record a session under the next free number."""
        data = json.dumps(asdict(session), indent=1).encode()
        number = len(list(self.store.list("sessions/")))
        while not self.store.put_if_absent(f"sessions/{number:04d}.json", data):
            number += 1


class ShardReader:
    """Reads single shards of a plan on a worker: row groups by range reads, the latest one kept."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._files: dict[str, pq.ParquetFile] = {}
        self._latest: tuple[tuple[str, int], dict[str, Shard]] = (("", -1), {})

    def shard(self, shard_id: str, plan_key: str, row_group: int) -> Shard:
        """The shard behind one row of `Ledger.todo`."""
        where = (plan_key, row_group)
        if self._latest[0] != where:
            if plan_key not in self._files:
                self._files[plan_key] = pq.ParquetFile(self._store.open_file(plan_key))
            table = self._files[plan_key].read_row_group(row_group)
            self._latest = (where, {shard.shard_id: shard for shard in shards_of(table)})
        return self._latest[1][shard_id]

    def uris(self, count: int) -> list[str]:
        """Some recordings that are planned near the latest shard, by chance."""
        found = sorted({window.recording.uri for shard in self._latest[1].values() for window in shard.windows})
        return random.sample(found, min(count, len(found)))


def read_json(store: ObjectStore, key: str) -> dict[str, Any]:
    """A JSON object of the run. Raises StoreError when it is not one."""
    try:
        found: dict[str, Any] = json.loads(store.get(key))
    except ValueError:
        raise StoreError(f"{key} at {store} is damaged; restore it, or give the run another `name`.") from None
    return found


def _plan_part_of(store: ObjectStore, key: str) -> PlanPart:
    header = read_json(store, key)
    return PlanPart(**{**header, "totals": PlanTotals(**header["totals"])})


def _plan_bytes(table: pa.Table) -> tuple[bytes, list[int]]:
    """Parquet bytes with row groups that end where shards end, and the rows of each group."""
    buffer = BytesIO()
    ids = table["shard_id"].combine_chunks()
    group_rows = []
    with pq.ParquetWriter(buffer, table.schema, compression="zstd") as writer:
        start = 0
        while start < table.num_rows:
            stop = min(start + _WINDOWS_PER_ROW_GROUP, table.num_rows)
            while stop < table.num_rows and ids[stop] == ids[stop - 1]:
                stop += 1
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
            group_rows.append(stop - start)
            start = stop
    return buffer.getvalue(), group_rows


def _shards_bytes(table: pa.Table, plan_key: str, group_rows: list[int]) -> bytes:
    """Parquet bytes of ENTRIES."""
    starts = np.cumsum([0, *group_rows[:-1]])
    groups = zip(starts.tolist(), group_rows, strict=True)
    entries = [_entries_of(table.slice(start, rows), plan_key, group) for group, (start, rows) in enumerate(groups)]
    buffer = BytesIO()
    pq.write_table(pa.concat_tables(entries or [ENTRIES.empty_table()]), buffer, compression="zstd")
    return buffer.getvalue()


def _entries_of(windows: pa.Table, plan_key: str, row_group: int) -> pa.Table:
    """One row per shard, whose windows lie together. Not by `group_by`: where its hashes collide, groups change places."""
    ids = windows["shard_id"].combine_chunks()
    seconds = pc.subtract(windows["end_s"], windows["start_s"]).to_numpy()
    is_first = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.append(len(ids) > 0, is_first))
    columns = [
        ids.take(pa.array(starts)),
        pa.repeat(pa.scalar(plan_key), len(starts)),
        pa.repeat(pa.scalar(row_group, pa.int32()), len(starts)),
        pa.array(np.diff(starts, append=len(ids)), pa.int32()),
        pa.array(np.add.reduceat(seconds, starts), pa.float64()),
    ]
    return pa.table(columns, schema=ENTRIES)
