"""Do what a second pass lacks, then finalize: the one loop behind `quarry second-pass`, on Ray or in one process."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StoreError
from pipeline.records import Undone
from pipeline.runtime.answering import AnswerReceipt, PassAssignment
from pipeline.second_pass.answers import ANSWERS, STATUSES, read_answers
from pipeline.second_pass.prepare import SecondPass, write_text_plan
from pipeline.second_pass.texts import stream_places
from pipeline.store.parts import Part, list_parts
from pipeline.store.snapshot import Snapshot, latest_snapshot
from pipeline.store.tables import TableWriter

RUNTIMES = {"ray": "pipeline.runtime.answering_ray", "local": "pipeline.runtime.answering"}
_REASONS_KEPT = 5
_UNDONE_IN_A_ROW = 8
_SAY_EVERY_S = 10.0
_READERS = 8  # parts read at once


@dataclass(frozen=True, slots=True)
class PassOutcome:
    """What `quarry second-pass` did."""

    done_before: int  # shards that were there already
    done_now: int
    left: int  # shards without a part when the pass was over
    snapshot: Snapshot | None  # None while shards are left
    reasons: tuple[Undone, ...] = ()  # why, for the first few of them

    @property
    def exit_code(self) -> int:
        """0 all ok · 1 finished with failed or rejected rows · 3 incomplete."""
        if self.snapshot is None:
            return 3
        totals = self.snapshot.run["totals"]
        return 1 if totals["failed"] or totals["rejected"] else 0


def execute_pass(wanted: SecondPass, say: Callable[[str], None] = lambda line: None) -> PassOutcome:
    """Write the plan if it is new, ask about what has no answer, finalize when all has. Raises RunError."""
    wanted = write_text_plan(wanted)
    entries = wanted.book.entries()
    todo = wanted.book.todo(entries)
    done_before = entries.num_rows - todo.num_rows
    reasons: tuple[Undone, ...] = ()
    if todo.num_rows:
        say(f"{todo.num_rows} of {entries.num_rows} shards to do, {pc.sum(todo['recordings']).as_py()} transcripts.")
        reasons = _ask(wanted, todo, say)
        todo = wanted.book.todo(entries)
    snapshot = None if todo.num_rows else finalize_pass(wanted)
    return PassOutcome(done_before, entries.num_rows - done_before - todo.num_rows, todo.num_rows, snapshot, reasons)


def finalize_pass(wanted: SecondPass) -> Snapshot:
    """Write the table and the snapshot of a complete pass; the existing one where nothing has changed.

    The table has one row for each recording of the run's latest snapshot: of answers to earlier texts, none.
    Raises StoreError when a part is missing, unreadable, or not what was planned.
    """
    store = wanted.book.store
    parts = {part.shard_id: part for part in list_parts(store)}
    folder = f"tables/{_digest(wanted, parts)}"
    latest = latest_snapshot(store)
    if latest and latest.tables == folder and all(store.exists(str(file["key"])) for file in latest.files["answers"]):
        return latest
    current = _current_digests(wanted) if len(wanted.book.plans()) > 1 else None
    writer = TableWriter(store, f"{folder}/answers", ANSWERS)
    totals: Counter[str] = Counter(dict.fromkeys(("recordings", *STATUSES, "n_prompt_tokens", "n_tokens"), 0))
    for rows in _planned_answers(wanted, parts):
        if current is not None:
            pairs = zip(rows["recording_id"].to_pylist(), rows["text_digest"].to_pylist(), strict=True)
            rows = rows.filter(pa.array([current.get(name) == digest for name, digest in pairs], pa.bool_()))
        writer.add(rows)
        totals.update(rows["status"].to_pylist())
        totals["recordings"] += rows.num_rows
        for name in ("n_prompt_tokens", "n_tokens"):
            totals[name] += pc.sum(rows[name]).as_py() or 0
    writer.close()
    return _write_snapshot(wanted, folder, writer, totals, (latest.number if latest else 0) + 1)


def pass_text(snapshot: Snapshot) -> str:
    """What a finished pass amounts to, and where its table lies."""
    run = snapshot.run
    totals = run["totals"]
    shares = ", ".join(f"{totals[status]:,} {status}" for status in STATUSES if totals[status])
    return "\n".join(
        [
            f"Second pass {run['task']} over {run['run_id']} (its snapshot {run['source_snapshot']}) · model {run['model']}, "
            f"revision {run['model_revision']} · snapshot {snapshot.number}",
            f"{totals['recordings']:,} transcripts: {shares or 'none'}; "
            f"{totals['n_prompt_tokens']:,} tokens read, {totals['n_tokens']:,} written.",
            f"answers    {run['uri']}/{snapshot.tables}/answers/",
        ]
    )


def _ask(wanted: SecondPass, todo: pa.Table, say: Callable[[str], None]) -> tuple[Undone, ...]:
    """One pass over the shards to do. Returns some that could not be finished."""
    reasons: list[Undone] = []
    in_a_row = shards = rows = tokens = 0
    began = said_at = time.monotonic()
    for receipt in _receipts(wanted, todo):
        in_a_row = in_a_row + 1 if isinstance(receipt, Undone) else 0
        if isinstance(receipt, Undone):
            reasons += [receipt] if len(reasons) < _REASONS_KEPT else []
        else:
            shards, rows, tokens = shards + 1, rows + receipt.rows, tokens + receipt.n_tokens
        now = time.monotonic()
        if now - said_at >= _SAY_EVERY_S:
            said_at = now
            say(f"{shards}/{todo.num_rows} shards · {rows} transcripts · {tokens / (now - began):.1f} tokens/s")
        if in_a_row == _UNDONE_IN_A_ROW:
            break  # a full disk, a store that is gone: the rest would be asked for nothing
    return tuple(reasons)


def _receipts(wanted: SecondPass, todo: pa.Table) -> Iterator[AnswerReceipt | Undone]:
    assignment = PassAssignment(wanted.config, wanted.identity, wanted.source_store.uri, wanted.uri)
    flow = import_module(RUNTIMES[wanted.config.runtime.kind])
    yield from flow.answer_shards(todo, assignment)


def _planned_answers(wanted: SecondPass, parts: dict[str, Part]) -> Iterator[pa.Table]:
    """The rows of every planned shard, in plan order."""

    def load(shard: tuple[str, list[tuple[str, str]]]) -> pa.Table:
        shard_id, planned = shard
        if shard_id not in parts:
            raise StoreError(f"The shard {shard_id} of {wanted.uri} has no part; run the same command again.")
        rows = read_answers(wanted.book.store, parts[shard_id])
        found = list(zip(rows["recording_id"].to_pylist(), rows["text_digest"].to_pylist(), strict=True))
        if found != planned:
            raise StoreError(f"The part {parts[shard_id].key} is not what was planned; delete it and run again.")
        return rows

    shards = _planned_shards(wanted)
    with ThreadPoolExecutor(_READERS) as pool:
        while some := list(islice(shards, _READERS * 4)):
            yield from pool.map(load, some)


def _planned_shards(wanted: SecondPass) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for _, _, texts in wanted.book.planned():
        shards: dict[str, list[tuple[str, str]]] = {}
        columns = (texts[name].to_pylist() for name in ("shard_id", "recording_id", "digest"))
        for shard_id, recording_id, digest in zip(*columns, strict=True):
            shards.setdefault(shard_id, []).append((recording_id, digest))
        yield from shards.items()


def _current_digests(wanted: SecondPass) -> dict[str, str]:
    """What every recording says now: ids and digests, no texts."""
    return {place.recording_id: place.digest for place in stream_places(wanted.source_store, wanted.source)}


def _digest(wanted: SecondPass, parts: dict[str, Part]) -> str:
    """Names the state: of the run, of the plan, and of every part."""
    plans = "".join(plan.sha256 for plan in wanted.book.plans())
    digest = hashlib.sha256(f"{wanted.source.tables}\n{plans}".encode())
    for shard_id in sorted(parts):
        digest.update(f"{shard_id}:{parts[shard_id].size_bytes}:{parts[shard_id].etag}\n".encode())
    return digest.hexdigest()[:12]


def _write_snapshot(
    wanted: SecondPass, folder: str, writer: TableWriter, totals: Counter[str], number: int
) -> Snapshot:
    store = wanted.book.store
    run = {
        **asdict(wanted.identity),
        "uri": store.uri,
        "source_snapshot": wanted.source.number,
        "source_tables": wanted.source.tables,
        "settings": wanted.config.public()["second_pass"],
        "totals": dict(totals),
    }
    while True:
        snapshot = Snapshot(number, folder, {"answers": writer.files}, run)
        if store.put_if_absent(f"snapshots/{number:05d}.json", json.dumps(asdict(snapshot), indent=1).encode()):
            return snapshot
        taken = latest_snapshot(store)
        if taken and taken.tables == folder:
            return taken  # another driver finalized the same parts meanwhile
        number += 1
