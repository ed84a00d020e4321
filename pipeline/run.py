"""Do what the plan lacks, then finalize: the one loop behind `quarry run`, on Ray or in one process."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.prepare import Run, write_plan
from pipeline.records import Receipt, Undone
from pipeline.runtime.progress import ProgressLine
from pipeline.runtime.workers import Assignment
from pipeline.store.ledger import Session
from pipeline.store.snapshot import Snapshot, finalize

RUNTIMES = {"ray": "pipeline.runtime.ray_flow", "local": "pipeline.runtime.local_flow"}
_REASONS_KEPT = 5
_UNDONE_IN_A_ROW = 8
_VERSIONS_OF = ("quarry-asr", "ray", "pyarrow", "numpy", "av", "soxr", "faster-whisper", "ctranslate2", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `quarry run` did."""

    run: Run
    done_before: int  # shards that were there already
    done_now: int
    left: int  # shards without a part when the pass was over
    snapshot: Snapshot | None  # None while shards are left
    reasons: tuple[Undone, ...] = ()  # why, for the first few of them

    @property
    def exit_code(self) -> int:
        """0 all ok · 1 finished with failed or partial rows · 3 incomplete."""
        if self.snapshot is None:
            return 3
        return 1 if self.snapshot.failed or self.snapshot.partial else 0


def execute(run: Run, say: Callable[[str], None] = lambda line: None) -> Outcome:
    """Write the plan if it is new, run what is not done, finalize when all is. Raises RunError."""
    run = write_plan(run)
    entries = run.ledger.entries()
    todo = run.ledger.todo(entries)
    reasons: tuple[Undone, ...] = ()
    done_before = entries.num_rows - todo.num_rows
    if todo.num_rows:
        hours = pc.sum(todo["audio_s"]).as_py() / 3600
        say(f"{todo.num_rows} of {entries.num_rows} shards to do, {hours:.2f} h of audio.")
        reasons = _pass(run, todo)
        todo = run.ledger.todo(entries)
    snapshot = None if todo.num_rows else finalize(run.ledger, run.config, run.identity)
    done_now = entries.num_rows - done_before - todo.num_rows
    return Outcome(run, done_before, done_now, todo.num_rows, snapshot, reasons)


def receipts(run: Run, todo: pa.Table) -> Iterator[Receipt | Undone]:
    """Run some entries of the ledger on the configured runtime; a receipt for each shard as it is published.

    Raises RunError when the engine cannot be had, RunBrokenOffError when the run cannot go on.
    """
    assignment = Assignment(run.config, run.identity, run.uri, run.roots, run.spec.max_chunk_s)
    flow = import_module(RUNTIMES[run.config.runtime.kind])
    yield from flow.run_shards(todo, assignment)


def _pass(run: Run, todo: pa.Table) -> tuple[Undone, ...]:
    """One pass over the shards to do; the session is recorded even when it is cut short. Returns some that failed."""
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    line = ProgressLine(todo.num_rows, pc.sum(todo["audio_s"]).as_py())
    first_commit_s = 0.0
    reasons: list[Undone] = []
    in_a_row = 0
    try:
        for receipt in receipts(run, todo):
            first_commit_s = first_commit_s or line.elapsed_s
            line.add(receipt)
            in_a_row = in_a_row + 1 if isinstance(receipt, Undone) else 0
            if isinstance(receipt, Undone) and len(reasons) < _REASONS_KEPT:
                reasons.append(receipt)
            if in_a_row == _UNDONE_IN_A_ROW:
                break  # a full disk, a store that is gone: the rest would be decoded for nothing
    finally:
        line.close()
        if line.tally.shards:
            run.ledger.add_session(_session(run, started_at, line, first_commit_s))
    return tuple(reasons)


def _session(run: Run, started_at: str, line: ProgressLine, first_commit_s: float) -> Session:
    return Session(
        started_at=started_at,
        first_commit_s=round(first_commit_s, 3),
        wall_s=round(line.elapsed_s, 3),
        audio_s=line.tally.audio_s,
        shards=line.tally.shards,
        engine_workers=run.config.runtime.engine_workers if run.config.runtime.kind == "ray" else 1,
        hardware=f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS_OF}}
