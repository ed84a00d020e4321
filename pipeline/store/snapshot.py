"""Finalize: parts → transcripts, segments, failures, stats, run.json, and a snapshot written last.

Readers use a snapshot, never a listing. What finished retries heard better is merged in (`store.retries`). The tables' folder is
named by a hash of the parts they were made from, so a finalize that was cut short is simply done again, and one that has nothing
new to say finds its snapshot and stops.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import RunConfig
from pipeline.errors import RunBrokenOffError, StoreError
from pipeline.metrics.cost import Expense, spent, together
from pipeline.metrics.summary import RunTotals
from pipeline.records import EngineStats, RunIdentity, Shard
from pipeline.schema import (
    FAILURES,
    FINISHED,
    SEGMENTS,
    TRANSCRIPTS,
    column,
    failures_table,
    segments_table,
    transcripts_table,
)
from pipeline.store.joining import WindowJoiner
from pipeline.store.ledger import Ledger, read_json
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import Part, list_parts, stats_of
from pipeline.store.retries import RETRIES, FinishedRetry, Retried, finished_retries
from pipeline.store.tables import TableWriter
from pipeline.store.verify import part_tables, rows_match
from pipeline.text.transcript import scored

SHARDS = pa.schema(
    [
        column("shard_id", pa.string(), "shard, as in transcripts"),
        column("key", pa.string(), "its part inside the run's folder"),
        column("bytes", pa.int64(), "size of the part"),
        column("rows", pa.int64(), "rows in the part (windows of long recordings count each)"),
        column("audio_s", pa.float64(), "seconds decoded"),
        column("decode_s", pa.float64(), "CPU seconds of the decoder"),
        column("engine_s", pa.float64(), "seconds in the engine"),
        column("wait_s", pa.float64(), "seconds the engine stood idle before it"),
        column("queued_s", pa.float64(), "seconds it waited, decoded, for the engine"),
        column(
            "call_s", pa.float64(), "wall seconds in the engine's call; more than engine_s where calls share an engine"
        ),
        column("done_at", pa.timestamp("ms", "UTC"), "when the engine was done with it, by its clock; null: not known"),
        column("engine_audio_s", pa.float64(), "seconds of speech given to the engine"),
        column("padded_s", pa.float64(), "seconds the engine computed for them, padding included"),
        column("batches", pa.int64(), "batches the speech was packed into"),
        column("draft_s", pa.float64(), "seconds of speech whose text is the engine's unedited draft"),
        column("drafted_tokens", pa.float64(), "tokens of text where the engine had a draft to check"),
        column("foretold_tokens", pa.float64(), "of them, those that the draft had right"),
    ]
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A finished state of a run: which files hold it and what they add up to (`run`, also stored as run.json)."""

    number: int
    tables: str  # folder key of this state's tables
    files: dict[str, list[dict[str, Any]]]  # table name → files
    run: dict[str, Any]

    @property
    def failed(self) -> int:
        """Recordings that failed."""
        return int(self.run["totals"]["failed"])

    @property
    def partial(self) -> int:
        """Recordings of which something is missing."""
        return int(self.run["totals"]["partial"])


class Finalizer:
    """One pass over the parts of a complete run."""

    def __init__(self, ledger: Ledger, config: RunConfig, identity: RunIdentity, folder: str, retried: Retried) -> None:
        self._ledger, self._config, self._identity = ledger, config, identity
        self.retried = retried
        schemas = {"transcripts": FINISHED, "segments": SEGMENTS, "failures": FAILURES, "shards": SHARDS}
        schemas |= {"retries": RETRIES} if retried else {}
        self.writers = {name: TableWriter(ledger.store, f"{folder}/{name}", schema) for name, schema in schemas.items()}
        self.totals = RunTotals()
        self._joiner = WindowJoiner()

    def add(self, shard: Shard, part: Part, rows: pa.Table) -> None:
        """Take one shard's rows."""
        single = pc.equal(rows["window_count"], 1)
        tables = [rows.filter(single)]
        for transcript, shard_id in self._joiner.add(rows.filter(pc.invert(single))):
            whole = scored(transcript, self._config.score)
            tables.append(transcripts_table([whole], self._identity, shard_id))
        table = pa.concat_tables([table.replace_schema_metadata(TRANSCRIPTS.metadata) for table in tables])
        if self.retried:
            table, tried = self.retried.mend(table, self._config.score)
            self.writers["retries"].add(tried)
        self.writers["transcripts"].add(table)
        self.writers["segments"].add(segments_table(table))
        self.writers["failures"].add(failures_table(table))
        stats = stats_of(rows)
        self.writers["shards"].add(_shard_row(shard, part, rows, stats))
        self.totals.add(table)
        self.totals.add_engine(stats)

    def close(self) -> None:
        """Write what is left. Raises StoreError when a window is missing."""
        if self._joiner.incomplete:
            names = ", ".join(self._joiner.incomplete[:3])
            raise StoreError(f"Some windows of {names} are in no part; `quarry verify` lists what is missing.")
        for writer in self.writers.values():
            writer.close()


def finalize(ledger: Ledger, config: RunConfig, identity: RunIdentity) -> Snapshot:
    """Write the tables and the snapshot of a complete run; the existing one where nothing has changed.

    Raises StoreError when a part is missing, unreadable, or not what was planned, RunBrokenOffError when the plan itself is gone.
    """
    if not ledger.plan_parts():
        raise RunBrokenOffError(
            f"The plan of the run at {ledger.store} is gone: its folder was removed meanwhile; the same command begins anew."
        )
    parts = {part.shard_id: part for part in list_parts(ledger.store)}
    finished = finished_retries(ledger.store)
    folder = f"tables/{_digest(parts, ledger, finished)}"
    latest = latest_snapshot(ledger.store)
    if latest and latest.tables == folder and _is_there(ledger.store, latest):
        return latest
    finalizer = Finalizer(ledger, config, identity, folder, Retried(finished))
    for shard, rows in part_tables(ledger, parts):
        if not isinstance(rows, pa.Table) or not rows_match(shard, rows):
            reason = rows if isinstance(rows, str) else f"The part of shard {shard.shard_id} is not what was planned;"
            raise StoreError(f"{reason} `quarry verify` tells more.")
        finalizer.add(shard, parts[shard.shard_id], rows)
    finalizer.close()
    return _write_snapshot(ledger, config, identity, folder, finalizer, (latest.number if latest else 0) + 1)


def latest_snapshot(store: ObjectStore) -> Snapshot | None:
    """The newest snapshot of a run, or None."""
    keys = sorted(info.key for info in store.list("snapshots/") if info.key.endswith(".json"))
    return Snapshot(**read_json(store, keys[-1])) if keys else None


def _is_there(store: ObjectStore, snapshot: Snapshot) -> bool:
    """Whether nobody has removed a file of the tables."""
    return all(store.exists(str(file["key"])) for files in snapshot.files.values() for file in files)


def _write_snapshot(
    ledger: Ledger, config: RunConfig, identity: RunIdentity, folder: str, finalizer: Finalizer, number: int
) -> Snapshot:
    store = ledger.store
    stats_writer = TableWriter(store, f"{folder}/stats", finalizer.totals.table().schema)
    stats_writer.add(finalizer.totals.table())
    stats_writer.close()
    writers = {**finalizer.writers, "stats": stats_writer}
    sessions = [asdict(session) for session in ledger.sessions()]
    run = {
        **asdict(identity),
        "uri": store.uri,
        "config": config.public(),
        "totals": finalizer.totals.as_dict(),
        "sessions": sessions,
        "cost": _cost(ledger, sessions),
        **({"retries": finalizer.retried.summary()} if finalizer.retried else {}),
    }
    store.put_if_absent(f"{folder}/run.json", json.dumps(run, indent=1).encode())
    while True:
        snapshot = Snapshot(number, folder, {name: writer.files for name, writer in writers.items()}, run)
        if store.put_if_absent(f"snapshots/{number:05d}.json", json.dumps(asdict(snapshot), indent=1).encode()):
            return snapshot
        taken = latest_snapshot(store)
        if taken and taken.tables == folder:
            return taken  # another driver finalized the same parts meanwhile
        number += 1


def _cost(ledger: Ledger, sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """What the plan was expected to take and cost, and what the sessions took: two Expenses (`metrics.cost`)."""
    planned = [Expense(**part.expected) for part in ledger.plan_parts() if part.expected]
    return {"expected": asdict(together(planned)) if planned else None, "spent": asdict(spent(sessions))}


def _digest(parts: dict[str, Part], ledger: Ledger, finished: Sequence[FinishedRetry]) -> str:
    """Names the state: the plan parts, every part with its size (a part's content never changes once it is there), retries."""
    digest = hashlib.sha256("".join(part.sha256 for part in ledger.plan_parts()).encode())
    for shard_id in sorted(parts):
        digest.update(f"{shard_id}:{parts[shard_id].size_bytes}:{parts[shard_id].etag}\n".encode())
    for retry in finished:
        digest.update(retry.digest.encode())
    return digest.hexdigest()[:12]


def _shard_row(shard: Shard, part: Part, rows: pa.Table, stats: EngineStats) -> pa.Table:
    row = {
        "shard_id": shard.shard_id,
        "key": part.key,
        "bytes": part.size_bytes,
        "rows": rows.num_rows,
        "audio_s": pc.sum(rows["duration_s"]).as_py(),
        "decode_s": pc.sum(rows["decode_s"]).as_py(),
        "engine_s": stats.engine_s,
        "wait_s": stats.wait_s,
        "queued_s": stats.queued_s,
        "call_s": stats.call_s,
        "done_at": round(stats.done_at_s * 1000) or None,
        "engine_audio_s": stats.audio_s,
        "padded_s": stats.padded_s,
        "batches": stats.batches,
        "draft_s": stats.draft_s,
        "drafted_tokens": stats.drafted_tokens,
        "foretold_tokens": stats.foretold_tokens,
    }
    return pa.Table.from_pylist([row], schema=SHARDS)
