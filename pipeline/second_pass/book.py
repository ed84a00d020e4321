"""What a second pass is to do and what is done: its plan, immutable, minus the parts that exist. Nothing else is state.

<run>/second_pass/<name>-<fingerprint>/
  plan/0000-<hash>.parquet       one row per text
  plan/0000.json                 names it, and the state of the run that it was made from; a newer state adds 0001 …
  parts/<hh>/<shard>.parquet     put once: presence = decided
  tables/<hash>/answers/         made from exactly these parts
  snapshots/00001.json           written last; what readers use
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DriftError
from pipeline.second_pass.plan import TEXTS
from pipeline.store.ledger import read_json
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import list_parts

_TEXTS_PER_ROW_GROUP = 5_000
ENTRIES = pa.schema(
    [
        ("shard_id", pa.string()),
        ("plan_key", pa.string()),
        ("row_group", pa.int32()),
        ("source_snapshot", pa.int32()),
        ("recordings", pa.int32()),
    ]
)


@dataclass(frozen=True, slots=True)
class TextPlan:
    """One plan part's header."""

    key: str
    sha256: str
    source_snapshot: int  # of the run
    source_tables: str  # the folder of that snapshot's tables: names its content
    fingerprint: str
    schema_version: int
    template_digest: str
    model_revision: str
    recordings: int
    settings: dict[str, Any]


class Book:
    """The bookkeeping of one second pass. `store` is rooted at its folder."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def plans(self) -> list[TextPlan]:
        """Headers of the plan parts, oldest first; empty: no plan yet."""
        keys = sorted(info.key for info in self.store.list("plan/") if info.key.endswith(".json"))
        return [TextPlan(**read_json(self.store, key)) for key in keys]

    def add_plan(self, number: int, texts: pa.Table, header: dict[str, Any]) -> TextPlan:
        """Write plan part `number`: the number of parts there were when it was worked out.

        Raises DriftError when another driver has written another plan under this number meanwhile.
        """
        data = _plan_bytes(texts)
        digest = hashlib.sha256(data).hexdigest()
        plan = TextPlan(f"plan/{number:04d}-{digest[:12]}.parquet", digest, recordings=texts.num_rows, **header)
        self.store.put_if_absent(plan.key, data)
        header_key = f"plan/{number:04d}.json"
        if self.store.put_if_absent(header_key, json.dumps(asdict(plan), indent=1).encode()):
            return plan
        theirs = TextPlan(**read_json(self.store, header_key))
        if theirs.sha256 != digest:
            raise DriftError(
                "Another driver planned this pass from another state of the run meanwhile; run the same command again."
            )
        return theirs

    def planned(self) -> Iterator[tuple[TextPlan, int, pa.Table]]:
        """All that is planned, by plan part and row group: (header, row group, rows of TEXTS)."""
        for plan in self.plans():
            with self.store.open_file(plan.key) as opened:
                file = pq.ParquetFile(opened)
                for group in range(file.num_row_groups):
                    yield plan, group, file.read_row_group(group)

    def entries(self) -> pa.Table:
        """One row of ENTRIES per planned shard, in plan order."""
        tables = [ENTRIES.empty_table()]
        for plan, group, texts in self.planned():
            counted = texts.group_by("shard_id", use_threads=False).aggregate([("recording_id", "count")])
            size = counted.num_rows
            columns = [
                counted["shard_id"],
                pa.repeat(pa.scalar(plan.key), size),
                pa.repeat(pa.scalar(group, pa.int32()), size),
                pa.repeat(pa.scalar(plan.source_snapshot, pa.int32()), size),
                counted["recording_id_count"].cast(pa.int32()),
            ]
            tables.append(pa.table(columns, schema=ENTRIES))
        return pa.concat_tables(tables)

    def todo(self, entries: pa.Table) -> pa.Table:
        """Those of the entries whose part does not exist."""
        done = pa.array([part.shard_id for part in list_parts(self.store)], pa.string())
        return entries.filter(pc.invert(pc.is_in(entries["shard_id"], done)))


class PlanReader:
    """Reads the plan of single shards on a worker; keeps the latest row group."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._latest: tuple[tuple[str, int], pa.Table] | None = None

    def rows(self, shard_id: str, plan_key: str, row_group: int) -> list[dict[str, Any]]:
        """The rows of TEXTS of one shard."""
        if self._latest is None or self._latest[0] != (plan_key, row_group):
            with self._store.open_file(plan_key) as opened:
                self._latest = ((plan_key, row_group), pq.ParquetFile(opened).read_row_group(row_group))
        table = self._latest[1]
        found: list[dict[str, Any]] = table.filter(pc.equal(table["shard_id"], shard_id)).to_pylist()
        return found


def _plan_bytes(texts: pa.Table) -> bytes:
    """Parquet bytes with row groups that end where shards end."""
    buffer = BytesIO()
    ids = texts["shard_id"].combine_chunks()
    with pq.ParquetWriter(buffer, TEXTS, compression="zstd") as writer:
        start = 0
        while start < texts.num_rows:
            stop = min(start + _TEXTS_PER_ROW_GROUP, texts.num_rows)
            while stop < texts.num_rows and ids[stop] == ids[stop - 1]:
                stop += 1
            writer.write_table(texts.slice(start, stop - start), row_group_size=stop - start)
            start = stop
    return buffer.getvalue()
