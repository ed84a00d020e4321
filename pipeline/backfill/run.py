"""`quarry backfill`: the partitions of an archive that are new, grown, unfinished or failed, one run each, under a lock.

The same command, every night. What a partition held when it was last done is remembered (`book`), so one that has not changed
costs one look at its listing (`survey`). The lock (`pipeline.store.lease`) saves work; that two drivers do no harm is the parts'
doing, which are put if absent.
"""

from __future__ import annotations

import hashlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.audio.uri_policy import without_secrets
from pipeline.backfill.book import MANIFEST, NEW, Book, Record, open_book
from pipeline.backfill.partitions import Partition, Period, in_order, partitions, period
from pipeline.backfill.survey import Found, by_column, survey
from pipeline.backfill.work import Job, Means, Result, Say, TooLong, line_of, work_on
from pipeline.config import RunConfig
from pipeline.engines.base import describe_engine
from pipeline.errors import RunError
from pipeline.prepare import Progress
from pipeline.prices import terms_of
from pipeline.store.lease import Holder, Lease, take_lease

SEVERITY = (0, 1, 3, 2)  # exit codes, the worst last
_SURVEYS_AT_ONCE = 8
_STORE_TROUBLE_IN_A_ROW = 3
_SHOWN = 5
_NOT_THERE = "not there"
_TAKEN_OVER = "another backfill has taken over, as this one was silent for too long"
_TIME_IS_OVER = "backfill.max_wall_s is over"
_ENOUGH_PARTITIONS = "backfill.max_partitions is reached"
_ENOUGH_AUDIO = "backfill.max_audio_h is reached"
_LIMITS = (_TIME_IS_OVER, _ENOUGH_PARTITIONS, _ENOUGH_AUDIO)

Surveyed = Iterable[tuple[Partition, Found | RunError]]


@dataclass(slots=True)
class Night:
    """What one invocation did."""

    started_at: str
    results: list[Result] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)  # why → partitions
    stopped: str = ""  # why it ended before all was done; "" if it did not
    exit_code: int = 0

    def summary(self) -> dict[str, Any]:
        """For the log in the store."""
        return {
            "started_at": self.started_at,
            "ended_at": _now(),
            "exit_code": self.exit_code,
            "stopped": self.stopped,
            "passed_over": dict(self.passed_over),
            "heard_s": sum(done.heard_s for done in self.results),
            "partitions": [done.as_dict() for done in self.results],
        }


class _Stopper:
    """Ends the main thread's work as SIGTERM does, and says why; where there is no such handler, between partitions."""

    def __init__(self) -> None:
        self.reason = ""
        self._armed = threading.current_thread() is threading.main_thread()

    def stop(self, reason: str) -> None:
        """May be called from any thread."""
        if self.reason:
            return
        self.reason = reason
        if self._armed and callable(signal.getsignal(signal.SIGTERM)) and (main := threading.main_thread().ident):
            signal.pthread_kill(main, signal.SIGTERM)

    def disarm(self) -> None:
        """From now on nothing is cut short."""
        self._armed = False


def backfill(
    config: RunConfig, say: Say = lambda line: None, on_probe: Progress = lambda done, total: None
) -> Night | Holder:
    """Work on what the partitions lack, within the limits; who has the lock, if another backfill does.

    Raises RunError where nothing can be begun: settings, engine, prices, store, or an archive that is not there.
    """
    terms_of(config, describe_engine(config.engine))
    days = period(config.backfill)
    book = open_book(config)
    lease = take_lease(book.store, config.backfill.lease_s, config.backfill.wait_s)
    if isinstance(lease, Holder):
        return lease
    night, stopper = Night(_now()), _Stopper()
    try:
        lease.keep(lambda: stopper.stop(_TAKEN_OVER))
        with ExitStack() as stack:
            means = Means(say, on_probe, _once(config, stack))
            _limit_time(config.backfill.max_wall_s, stopper, stack)
            _work(config, days, book, night, stopper, means)
    except KeyboardInterrupt:
        night.stopped = stopper.reason or "interrupted"
    except RunError as error:
        night.stopped, night.exit_code = str(error), 2
        raise
    finally:
        stopper.disarm()
        night.exit_code = max(night.exit_code, _exit_code(night), key=SEVERITY.index)
        _close(book, lease, night, say)
    return night


def _work(config: RunConfig, days: Period, book: Book, night: Night, stopper: _Stopper, means: Means) -> None:
    limits, records, trouble = config.backfill, book.records(), 0
    for partition, found in _surveyed(config, days, book, records):
        record = records.get(partition.label, NEW)
        job = _job(partition, found, record, limits.retry_failed, night)
        if job is None:
            continue
        budget_s = _budget_s(limits.max_audio_h, night.results)
        if limits.max_partitions is not None and len(night.results) >= limits.max_partitions:
            night.stopped = _ENOUGH_PARTITIONS
        elif budget_s == 0.0:
            night.stopped = _ENOUGH_AUDIO
        elif trouble == _STORE_TROUBLE_IN_A_ROW:
            night.stopped = f"the output failed {trouble} partitions in a row"
        night.stopped = night.stopped or stopper.reason
        if night.stopped:
            return
        try:
            done = work_on(job, config, budget_s, means)
        except TooLong:
            night.stopped = _ENOUGH_AUDIO
            return
        trouble = trouble + 1 if done.store_trouble else 0
        night.results.append(done)
        means.say(line_of(done))
        if isinstance(found, Found):
            _note(book, partition, record, found, job, done, means.say)
    if not night.results and not records and set(night.passed_over) <= {_NOT_THERE}:
        raise RunError(  # a slip of the pen must not look like a quiet night
            f"There is no audio and no manifest at {without_secrets(config.manifest)} in this period; check the uri, and since "
            "and until."
        )


def _limit_time(max_wall_s: float | None, stopper: _Stopper, stack: ExitStack) -> None:
    if max_wall_s:
        timer = threading.Timer(max_wall_s, stopper.stop, (_TIME_IS_OVER,))
        timer.daemon = True
        timer.start()
        stack.callback(timer.cancel)


def _job(partition: Partition, found: Found | RunError, record: Record, retry_failed: int, night: Night) -> Job | None:
    """What is to be done for a partition; None, and counted, where it is nothing."""
    if isinstance(found, RunError):
        return Job(partition, trouble=found)
    if found.digest is None:
        night.passed_over["may still be written" if found.waiting else _NOT_THERE] += 1
        return None
    if record.is_done(found.digest, retry_failed):
        night.passed_over["unchanged"] += 1
        return None
    return Job(partition, found.listed, retry_only=record.digest == found.digest and record.exit_code == 1)


def _budget_s(max_audio_h: float | None, results: list[Result]) -> float | None:
    """Audio seconds that the next partition may have. The first may have any: it would never be done otherwise."""
    if max_audio_h is None or not results:
        return None
    return max(0.0, max_audio_h * 3600 - sum(done.heard_s for done in results))


def _note(book: Book, partition: Partition, record: Record, found: Found, job: Job, done: Result, say: Say) -> None:
    """Remember how the partition was left. A memory that cannot be written costs a look at the run, the next time."""
    assert found.digest is not None
    tries = record.tries if record.digest == found.digest else 0
    tries += job.retry_only and done.exit_code in (0, 1)
    details = {
        "manifest": without_secrets(partition.manifest),
        "value": partition.value,
        "at": _now(),
        **done.as_dict(),
    }
    try:
        book.note(partition.label, Record(record.number + 1, found.digest, done.exit_code, tries), details)
    except RunError as error:
        say(f"{partition.label}: what was done could not be noted, so it is looked into again: {error}")


def _surveyed(config: RunConfig, days: Period, book: Book, records: dict[str, Record]) -> Surveyed:
    """Every partition of the period with what there is of it, some surveys ahead of the work."""
    limits = config.backfill
    if limits.column:
        yield from _of_column(config, days, book, records)
        return

    def ask(partition: Partition) -> tuple[Partition, Found | RunError]:
        try:
            return partition, survey(partition.manifest, config.source, limits.min_age_s)
        except RunError as error:
            return partition, error

    wanted = partitions(config, days)
    with ThreadPoolExecutor(_SURVEYS_AT_ONCE, thread_name_prefix="survey") as pool:
        for start in range(0, len(wanted), _SURVEYS_AT_ONCE):
            yield from pool.map(ask, wanted[start : start + _SURVEYS_AT_ONCE])


def _of_column(config: RunConfig, days: Period, book: Book, records: dict[str, Record]) -> Surveyed:
    """The partitions of one manifest by a column. It is not read while it is what it was when all of them were done."""
    limits, column = config.backfill, config.backfill.column
    assert column is not None
    found = survey(config.manifest, config.source, limits.min_age_s)
    if found.digest is None:
        yield Partition(MANIFEST, config.manifest), found
        return
    state = f"{found.digest} {column} {limits.since} {limits.until} {limits.last_days} {limits.retry_failed}"
    whole = Found(hashlib.sha256(state.encode()).hexdigest()[: len(found.digest)])
    if records.get(MANIFEST, NEW).digest == whole.digest:
        yield Partition(MANIFEST, config.manifest), whole
        return
    held = by_column(config.manifest, config.source, column)
    wanted = in_order(held, limits, days)
    for partition in wanted:
        yield partition, held[partition]
    if limits.until is None and any(one.day and one.day > days.until for one in held):
        return  # their day comes while the manifest stays as it is
    after = book.records()
    if all(after.get(one.label, NEW).is_done(str(held[one].digest), limits.retry_failed) for one in wanted):
        number = records.get(MANIFEST, NEW).number + 1
        details = {"manifest": without_secrets(config.manifest), "at": _now()}
        with suppress(RunError):  # without this memory the manifest is read once more
            book.note(MANIFEST, Record(number, str(whole.digest), 0, 0), details)


def _once(config: RunConfig, stack: ExitStack) -> Callable[[], None]:
    """Start what all partitions share, when the first of them needs it: one Ray for the night."""
    started: list[bool] = []

    def start() -> None:
        if started or config.runtime.kind != "ray":
            return
        from pipeline.runtime.ray_session import ray_session

        started.append(True)
        stack.enter_context(ray_session(config.runtime))

    return start


def night_text(night: Night) -> str:
    """What a person is told at the end."""
    passed = [f"{count:,} {why}" for why, count in sorted(night.passed_over.items())]
    hours, worked_on = sum(done.heard_s for done in night.results) / 3600, len(night.results)
    noun = "partition" if worked_on == 1 else "partitions"
    lines = [f"{worked_on:,} {noun} worked on, {hours:.2f} h of audio; passed over: {', '.join(passed) or 'none'}."]
    if bad := [done.partition.lstrip("_") for done in night.results if done.exit_code in (2, 3)]:
        more = " …" if len(bad) > _SHOWN else ""
        lines.append(f"Not done: {', '.join(bad[:_SHOWN])}{more}; the next backfill tries again.")
    if night.stopped:
        lines.append(f"It ended before all was done: {night.stopped}; the same command goes on.")
    return "\n".join(lines)


def _exit_code(night: Night) -> int:
    """The worst of the partitions; 3 where it was interrupted or broke off, not where a limit was reached."""
    codes = [done.exit_code for done in night.results]
    if night.stopped and night.stopped not in _LIMITS:
        codes.append(3)
    return max(codes, key=SEVERITY.index, default=0)


def _close(book: Book, lease: Lease, night: Night, say: Say) -> None:
    try:
        book.log(lease.number, night.summary())
    except RunError as error:
        say(f"The log of this backfill could not be written: {error}")
    lease.release()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
