"""One partition of a backfill: its run, resumed, or its failures tried again. Whatever goes wrong in it becomes its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import pyarrow.compute as pc

from pipeline.backfill.partitions import Partition, config_of
from pipeline.config import RunConfig
from pipeline.errors import QuarryError, RunBrokenOffError, RunError, StoreAwayError, StoreRefusedError
from pipeline.metrics.cost import spent
from pipeline.metrics.rtfx import rtfx
from pipeline.prepare import Progress, Run, prepare, run_id, run_uri
from pipeline.retry import execute_retry, prepare_retry
from pipeline.run import Outcome, execute
from pipeline.runtime.events import telling
from pipeline.runtime.progress import clock
from pipeline.store.ledger import Ledger

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What an invocation did for one partition. Counts of recordings are those of the partition's latest snapshot."""

    partition: str
    run_id: str
    exit_code: int
    new: int = 0  # recordings that were not planned before
    ok: int = 0
    partial: int = 0
    failed: int = 0
    heard_s: float = 0.0  # seconds of audio transcribed now
    wall_s: float = 0.0
    rtfx: float | None = None  # audio seconds per second of the sessions, start-up included
    usd: float | None = None
    snapshot: int | None = None
    retried: bool = False  # failures were tried again, nothing else
    message: str = ""  # why it is not done
    store_trouble: bool = field(default=False, compare=False)  # the output's, which others will meet too

    def as_dict(self) -> dict[str, Any]:
        """For the log."""
        found = asdict(self)
        del found["store_trouble"]
        return found


class TooLong(RunBrokenOffError):
    """The partition has more audio than what is left for this invocation."""


@dataclass(frozen=True, slots=True)
class Job:
    """A partition to be worked on."""

    partition: Partition
    listed: bool = False  # by the audio that lies there, some of which may have been removed
    retry_only: bool = False
    trouble: RunError | None = None  # why nobody can tell what is there


@dataclass(frozen=True, slots=True)
class Means:
    """What work needs of its surroundings. `start_runtime` is called when there is audio to be heard."""

    say: Say
    on_probe: Progress
    start_runtime: Callable[[], None]


def work_on(job: Job, config: RunConfig, budget_s: float | None, means: Means) -> Result:
    """Do what the partition lacks. Raises TooLong before anything is written where that is over `budget_s` of audio.

    KeyboardInterrupt goes through.
    """
    began = time.monotonic()
    name, made = job.partition.label, config
    means = replace(means, say=partial(_tell, means.say, name))
    try:
        made = config_of(config, job.partition, job.listed)
        if job.trouble:
            raise job.trouble
        done = _retried(job, made, means) if job.retry_only else _run(job, made, budget_s, means)
        done = replace(done, partition=name)
    except TooLong:
        raise
    except RunBrokenOffError as error:
        done = _undone(name, made, 3, error)
    except StoreAwayError as error:
        done = replace(_undone(name, made, 3, error), store_trouble=True)
    except QuarryError as error:
        done = replace(_undone(name, made, 2, error), store_trouble=isinstance(error, StoreRefusedError))
    except Exception as error:  # noqa: BLE001  one partition, whatever it meets, never stops the others
        done = _undone(name, made, 3, error)
    return replace(done, wall_s=round(time.monotonic() - began, 3))


def line_of(done: Result) -> str:
    """What a person is told of a partition that was worked on."""
    counts = [f"{count:,} {what}" for count, what in ((done.partial, "partial"), (done.failed, "failed")) if count]
    parts = [f"{done.new:,} new", ", ".join([f"{done.ok:,} ok", *counts])]
    speed = "" if done.rtfx is None else f", {done.rtfx:.1f}× real time"
    parts.append(f"{done.heard_s / 3600:.2f} h in {clock(done.wall_s)}{speed}")
    if done.usd is not None:
        parts.append(f"${done.usd:,.2f}")
    if done.retried:
        parts.append("failures tried again")
    parts.append(f"exit code {done.exit_code}")
    line = f"{done.partition.lstrip('_')}: {' · '.join(parts)}"
    return f"{line} · {done.message}" if done.message else line


def _run(job: Job, made: RunConfig, budget_s: float | None, means: Means) -> Result:
    with telling(made, "run", run_id(made), run_uri(made)) as events:
        run = prepare(made, means.on_probe, gone_ok=job.listed)
        new = run.totals.recordings - sum(part.totals.recordings for part in run.existing)
        to_hear_s = _to_hear_s(run)
        if budget_s is not None and to_hear_s > budget_s:
            raise TooLong("It has more audio than backfill.max_audio_h leaves; the next backfill goes on.")
        if to_hear_s or new:
            means.start_runtime()
        with _sessions_of(run.ledger) as sessions:
            outcome = execute(run, means.say, events)
        events.finish(outcome.exit_code, outcome.left)
    return _result(outcome, sessions, new)


def _to_hear_s(run: Run) -> float:
    """Seconds of audio without a part, the new ones included."""
    planned_s = sum(part.totals.audio_s for part in run.existing)
    left_s = pc.sum(run.ledger.todo(run.ledger.entries())["audio_s"]).as_py() or 0.0 if run.existing else 0.0
    return float(left_s + run.totals.audio_s - planned_s)


def _retried(job: Job, made: RunConfig, means: Means) -> Result:
    """Failed recordings and stretches once more, by the engine of `retry.engine` if there is one."""
    settings = made.retry.model_copy(update={"failed": True, "flagged": False})
    wanted = prepare_retry(made.model_copy(update={"retry": settings}), means.on_probe)
    if wanted is None:
        return replace(_run(job, made, None, means), retried=True)
    means.start_runtime()
    with telling(made, "retry", run_id(made), run_uri(made)) as events:
        with _sessions_of(wanted.run.ledger) as sessions:
            outcome = execute_retry(wanted, means.say, events)
        events.finish(outcome.exit_code, outcome.left)
    return replace(_result(outcome, sessions, 0), run_id=wanted.base_identity.run_id, retried=True)


def _result(outcome: Outcome, sessions: list[dict[str, Any]], new: int) -> Result:
    heard_s = sum(session["audio_s"] for session in sessions)
    totals = outcome.snapshot.run["totals"] if outcome.snapshot else {}
    reason = f": {outcome.reasons[0].message}" if outcome.reasons else ""
    return Result(
        partition="",
        run_id=outcome.run.identity.run_id,
        exit_code=outcome.exit_code,
        new=new,
        **{status: totals.get(status, 0) for status in ("ok", "partial", "failed")},
        heard_s=heard_s,
        rtfx=rtfx(heard_s, sum(session["wall_s"] for session in sessions)),
        usd=spent(sessions).usd,
        snapshot=outcome.snapshot.number if outcome.snapshot else None,
        message=f"{outcome.left} shards are not done{reason}" if outcome.snapshot is None else "",
    )


@contextmanager
def _sessions_of(ledger: Ledger) -> Iterator[list[dict[str, Any]]]:
    """The sessions that the block adds to a run, in the list when it is over."""
    before = sum(1 for _ in ledger.store.list("sessions"))
    added: list[dict[str, Any]] = []
    yield added
    added += [asdict(session) for session in islice(ledger.sessions(), before, None)]


def _undone(name: str, config: RunConfig, exit_code: int, error: Exception) -> Result:
    known = isinstance(error, QuarryError)
    message = " ".join((str(error) if known else f"{type(error).__name__}: {error}").split())[:500]
    return Result(name, run_id(config), exit_code, message=message)


def _tell(say: Say, name: str, line: str) -> None:
    say(f"{name.lstrip('_')}: {line}")
