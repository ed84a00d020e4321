"""Do what the plan lacks, then finalize: the one loop behind `quarry run`, on Ray or in one process."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import RunBrokenOffError, StoreAwayError, StoreRefusedError
from pipeline.prepare import Run, write_plan
from pipeline.records import Receipt, Undone
from pipeline.runtime.events import NO_EVENTS, EventLog
from pipeline.runtime.progress import Goal
from pipeline.runtime.watch import Watch
from pipeline.runtime.workers import Assignment
from pipeline.store.ledger import Session
from pipeline.store.snapshot import Snapshot, finalize

RUNTIMES = {"ray": "pipeline.runtime.ray_flow", "local": "pipeline.runtime.local_flow"}
_REASONS_KEPT = 5
_UNDONE_IN_A_ROW = 8
_REFUSED_IN_A_ROW = 3  # one alone may be a machine without credentials among many
_RESUME = "What is published stays; the same command resumes."
_LOST_NAMED = 20
_CAREFUL_PASSES = 8  # each tells apart what at least one and a half poisonous chunks of a shard do
_VERSIONS_OF = ("quarry-asr", "ray", "pyarrow", "numpy", "av", "soxr", "faster-whisper", "ctranslate2", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `quarry run` did."""

    run: Run
    done_before: int  # shards that were there already
    done_now: int
    left: int  # shards without a part when the pass was over
    snapshot: Snapshot | None  # None while shards are left, or the run is not finalized
    reasons: tuple[Undone, ...] = ()  # why, for the first few of them

    @property
    def exit_code(self) -> int:
        """0 all ok · 1 finished with failed or partial rows · 3 incomplete."""
        if self.snapshot is None:
            return 3
        return 1 if self.snapshot.failed or self.snapshot.partial else 0


def execute(run: Run, say: Callable[[str], None] = lambda line: None, events: EventLog = NO_EVENTS) -> Outcome:
    """Write the plan if it is new, run what is not done, finalize when all is. Raises RunError."""
    outcome = work(write_plan(run), say, events)
    if outcome.left:
        return outcome
    with resumable():
        snapshot = finalize(run.ledger, run.config, run.identity)
    tell_snapshot(events, snapshot)
    return replace(outcome, snapshot=snapshot)


def tell_snapshot(events: EventLog, snapshot: Snapshot) -> None:
    """The event `finalize`."""
    counts = {name: snapshot.run["totals"][name] for name in ("recordings", "ok", "partial", "failed")}
    events.tell("finalize", snapshot=snapshot.number, tables=snapshot.tables, **counts)


def work(run: Run, say: Callable[[str], None], events: EventLog = NO_EVENTS) -> Outcome:
    """Run what is not done of a run that has its plan; nothing is finalized. Raises RunError."""
    with resumable():
        return _work(run, say, events)


@contextmanager
def resumable() -> Iterator[None]:
    """A store that fails under a run that has its plan: what is published stays, so say that the same command resumes."""
    try:
        yield
    except StoreRefusedError as error:
        raise StoreRefusedError(f"{error} {_RESUME}") from error
    except StoreAwayError as error:
        raise RunBrokenOffError(f"{error} {_RESUME}") from error


def _work(run: Run, say: Callable[[str], None], events: EventLog) -> Outcome:
    entries = run.ledger.entries()
    todo = run.ledger.todo(entries)
    reasons: tuple[Undone, ...] = ()
    done_before = entries.num_rows - todo.num_rows
    all_of_it = _goal(run, entries, todo)
    events.tell(
        "plan",
        recordings=run.totals.recordings,
        shards=all_of_it.shards,
        audio_s=all_of_it.audio_s,
        shards_done=done_before,
        audio_done_s=all_of_it.audio_before_s,
    )
    if todo.num_rows:
        hours = pc.sum(todo["audio_s"]).as_py() / 3600
        say(f"{todo.num_rows} of {entries.num_rows} shards to do, {hours:.2f} h of audio.")
        reasons = _passes(run, entries, todo, say, events)
        todo = run.ledger.todo(entries)
        if todo.num_rows and reasons and reasons[0].refused:
            raise StoreRefusedError(f"{reasons[0].message} {todo.num_rows} of {entries.num_rows} shards are not done.")
    done_now = entries.num_rows - done_before - todo.num_rows
    return Outcome(run, done_before, done_now, todo.num_rows, None, reasons)


def receipts(run: Run, todo: pa.Table, careful: bool = False) -> Iterator[Receipt | Undone]:
    """Run some entries of the ledger on the configured runtime; a receipt for each shard as it is published.

    `careful`: these shards have ended their workers before (`pipeline.runtime.crashes`).
    Raises RunError when the engine cannot be had, RunBrokenOffError when the run cannot go on.
    """
    assignment = Assignment(run.config, run.identity, run.uri, run.roots, run.spec.max_chunk_s, careful)
    flow = import_module(RUNTIMES[run.config.runtime.kind])
    yield from flow.run_shards(todo, assignment)


def _goal(run: Run, entries: pa.Table, todo: pa.Table) -> Goal:
    """What there is in all, and what is done."""
    audio_s, left_s = (pc.sum(table["audio_s"]).as_py() or 0.0 for table in (entries, todo))
    return Goal(entries.num_rows, audio_s, entries.num_rows - todo.num_rows, audio_s - left_s, run.terms.usd_per_hour)


def _passes(
    run: Run, entries: pa.Table, todo: pa.Table, say: Callable[[str], None], events: EventLog
) -> tuple[Undone, ...]:
    """A pass over the shards to do, and careful ones over those that came back without a word. Returns some that failed."""
    undone, is_broken_off = _pass(run, todo, Watch(_goal(run, entries, todo), events))
    for _ in range(_CAREFUL_PASSES):
        if is_broken_off or any(shard.refused for shard in undone):
            break  # not the audio's doing
        lost = _without(run.ledger.todo(entries), undone)
        if not lost.num_rows:
            break
        say(f"{lost.num_rows} shards ended their workers; looking for the audio that does it.")
        events.tell("shards_lost", count=lost.num_rows, shard_ids=lost["shard_id"].slice(0, _LOST_NAMED).to_pylist())
        watch = Watch(_goal(run, entries, run.ledger.todo(entries)), events)
        more, is_broken_off = _pass(run, lost, watch, careful=True)
        undone += more
    return tuple(sorted(undone, key=lambda shard: not shard.refused)[:_REASONS_KEPT])


def _without(todo: pa.Table, undone: tuple[Undone, ...]) -> pa.Table:
    """The shards of which nothing was heard."""
    ids = pa.array([shard.shard_id for shard in undone], pa.string())
    return todo.filter(pc.invert(pc.is_in(todo["shard_id"], ids)))


def _pass(run: Run, todo: pa.Table, watch: Watch, careful: bool = False) -> tuple[tuple[Undone, ...], bool]:
    """One pass over the shards to do; the session is recorded even when it is cut short.

    Returns those that failed, and whether so many did in a row that the rest was left.
    """
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    first_commit_s = 0.0
    reasons: list[Undone] = []
    in_a_row = refused_in_a_row = 0
    is_broken_off = False
    try:
        with watch:
            for receipt in receipts(run, todo, careful):
                first_commit_s = first_commit_s or watch.elapsed_s
                watch.add(receipt)
                in_a_row = in_a_row + 1 if isinstance(receipt, Undone) else 0
                refused_in_a_row = refused_in_a_row + 1 if isinstance(receipt, Undone) and receipt.refused else 0
                if isinstance(receipt, Undone):
                    reasons.append(receipt)
                is_broken_off = in_a_row == _UNDONE_IN_A_ROW or refused_in_a_row == _REFUSED_IN_A_ROW
                if is_broken_off:
                    break  # a full disk, a store that is gone: the rest would be decoded for nothing
    finally:
        if watch.tally.shards:
            run.ledger.add_session(_session(run, started_at, watch, first_commit_s))
    return tuple(reasons), is_broken_off


def _session(run: Run, started_at: str, watch: Watch, first_commit_s: float) -> Session:
    return Session(
        started_at=started_at,
        first_commit_s=round(first_commit_s, 3),
        wall_s=round(watch.elapsed_s, 3),
        audio_s=watch.tally.audio_s,
        shards=watch.tally.shards,
        engine_workers=run.config.runtime.workers,
        hardware=f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
        versions=_versions(),
        usd_per_hour=run.terms.usd_per_hour,
    )


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in _VERSIONS_OF}}
