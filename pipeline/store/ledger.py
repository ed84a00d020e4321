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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DriftError, StoreError
from pipeline.plan import PLAN_SCHEMA, PlanTotals, shards_of
from pipeline.records import Shard
from pipeline.schema import SCHEMA_VERSION
from pipeline.spool import on_local_disk
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import list_parts
from pipeline.store.plan_file import ENTRIES, PlanFile

# A plan up to this size is checked in memory, a larger one in a file on the local disk.
_IN_MEMORY_BYTES = 64 * 2**20


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

    def add_plan_part(self, number: int, plan: PlanFile, header: dict[str, Any]) -> PlanPart:
        """Publish plan part `number`: the number of parts there were when `plan` was worked out.

        Raises DriftError when another driver has written another plan under this number meanwhile.
        """
        key = f"plan/{number:04d}-{plan.sha256[:12]}.parquet"
        shards = BytesIO()
        pq.write_table(plan.entries_at(key), shards, compression="zstd")
        part = PlanPart(
            key=key,
            sha256=plan.sha256,
            shards_key=key.replace(".parquet", ".shards.parquet"),
            shards_sha256=hashlib.sha256(shards.getbuffer()).hexdigest(),
            totals=plan.totals,
            **header,
        )
        self.store.put_if_absent(key, plan.path)
        self.store.put_if_absent(part.shards_key, shards.getvalue())
        header_key = f"plan/{number:04d}.json"
        if self.store.put_if_absent(header_key, json.dumps(asdict(part), indent=1).encode()):
            return part
        theirs = _plan_part_of(self.store, header_key)
        if theirs.sha256 != plan.sha256:
            raise DriftError(
                "Another driver planned this run from another manifest meanwhile; run the same command again."
            )
        return theirs

    def planned_windows(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The whole plan, one row per window (or some of its columns), a row group in memory at a time."""
        for part in self.plan_parts():
            with self._checked(part.key, part.sha256) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=columns and list(columns))

    def planned_recordings(self, ids: pa.Array) -> pa.Table:
        """What the plan knows of some recordings: the first window of each, a row group in memory at a time."""
        found = [PLAN_SCHEMA.empty_table()]
        for rows in self.planned_windows():
            wanted = pc.and_(pc.equal(rows["window_index"], 0), pc.is_in(rows["id"], value_set=ids))
            found.append(rows.filter(wanted))
        return pa.concat_tables(found, promote_options="default").combine_chunks()

    def entries(self) -> pa.Table:
        """One row of ENTRIES per planned shard, in plan order: where to find it and how long it is."""
        found = ENTRIES.empty_table()
        for part in self.plan_parts():
            with self._checked(part.shards_key, part.shards_sha256) as file:
                found = pa.concat_tables([found, file.read()])
        if pc.count_distinct(found["shard_id"]).as_py() != found.num_rows:
            raise StoreError(f"The plan at {self.store} holds a shard twice; give this run another `name`.")
        return found

    def todo(self, entries: pa.Table) -> pa.Table:
        """Those of the plan's entries whose part does not exist."""
        done = pa.array([part.shard_id for part in list_parts(self.store)], pa.string())
        return entries.filter(pc.invert(pc.is_in(entries["shard_id"], done)))

    def shards(self) -> Iterator[Shard]:
        """Every planned shard in order, a row group in memory at a time. Raises StoreError for a plan of another version."""
        for part in self.plan_parts():
            if part.schema_version != SCHEMA_VERSION:
                raise _other_version(self.store, part.key, part.schema_version)
        for rows in self.planned_windows():
            yield from shards_of(rows)

    @contextmanager
    def _checked(self, key: str, sha256: str) -> Iterator[pq.ParquetFile]:
        """A file of the plan, once all its bytes are those that were written."""
        with SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            digest = hashlib.sha256()
            for block in self.store.blocks(key):
                digest.update(block)
                with on_local_disk():
                    file.write(block)
            if digest.hexdigest() != sha256:
                raise StoreError(f"The plan {key} is not the one that was written; give the run another name.")
            file.seek(0)
            yield pq.ParquetFile(file)

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
    try:
        return PlanPart(**{**header, "totals": PlanTotals(**header["totals"])})
    except (KeyError, TypeError):
        raise _other_version(store, key, header.get("schema_version")) from None


def _other_version(store: ObjectStore, key: str, version: object) -> StoreError:
    return StoreError(
        f"The plan {key} at {store} was made by another version of Quarry (schema version {version}, this one has "
        f"{SCHEMA_VERSION}); look at the run with the version that made it, or begin anew under another `name`."
    )
