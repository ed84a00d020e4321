"""One line while a run goes on: rewritten in place on a terminal, a plain line now and then in a log.

How far, how fast now and on average, how long still, what it has cost, what failed, and which stage the others wait for. All of
it is measured: from the receipts of the shards that are done, and this process's clock.
"""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TextIO

from pipeline.metrics.rtfx import rtfx
from pipeline.records import Receipt, StepTime, Undone

_LOG_EVERY_S = 10.0
_QUIET_LOG_EVERY_S = 60.0  # where nothing has come: a log line that only says so
_PAINT_EVERY_S = 0.2
_NOW_S, _NOW_SHARDS = 60.0, 4  # "now" is the last minute, or as long as the last few shards took
_MARK_EVERY_S = 1.0
_HOLDS_UP = 0.5  # a stage that works less than this share of its time holds nobody up


@dataclass(frozen=True, slots=True)
class Tally:
    """What the receipts so far add up to."""

    shards: int = 0
    rows: int = 0
    partial: int = 0
    failed: int = 0
    audio_s: float = 0.0
    decode: StepTime = field(default_factory=StepTime)  # of all its workers together, as the others
    engine: StepTime = field(default_factory=StepTime)
    queued_s: float = 0.0  # decoded shards waited so long for an engine, all together
    store: StepTime = field(default_factory=StepTime)
    undone: int = 0

    def plus(self, receipt: Receipt | Undone) -> Tally:
        """With one more shard."""
        if isinstance(receipt, Undone):
            return replace(self, undone=self.undone + 1)
        return Tally(
            self.shards + 1,
            self.rows + receipt.rows,
            self.partial + receipt.partial,
            self.failed + receipt.failed,
            self.audio_s + receipt.audio_s,
            _sum(self.decode, receipt.decoding),
            _sum(self.engine, StepTime(receipt.engine_s, receipt.wait_s)),
            self.queued_s + receipt.queued_s,
            _sum(self.store, receipt.publishing),
            self.undone,
        )

    def busy(self, since: Tally | None = None) -> dict[str, float]:
        """Of each stage, the share of its workers' time in which they worked (since an earlier tally); none: not known."""
        start = since or Tally()
        found = {}
        for stage in ("decode", "engine", "store"):
            now, then = getattr(self, stage), getattr(start, stage)
            busy_s, wait_s = now.busy_s - then.busy_s, now.wait_s - then.wait_s
            if busy_s + wait_s > 0:
                found[stage] = busy_s / (busy_s + wait_s)
        return found

    def holds_up(self, since: Tally) -> str | None:
        """The stage that the others wait for, since an earlier tally; None: each rests more than half of its time.

        A decoding worker that is ahead rests after its last shard, which nobody has measured yet, and looks as busy as the
        engine. Who waits for whom is seen between the two: decoded shards that queue, or an engine that stands idle.
        """
        busy = {stage: share for stage, share in self.busy(since).items() if share >= _HOLDS_UP}
        slowest = max(busy, key=lambda stage: busy[stage], default=None)
        if slowest == "decode" and "engine" in busy:
            return "engine" if self.queued_s - since.queued_s >= self.engine.wait_s - since.engine.wait_s else "decode"
        return slowest


@dataclass(frozen=True, slots=True)
class Goal:
    """What there is to do in all, and what was done before this pass. `usd_per_hour` None: nobody has given a price."""

    shards: int
    audio_s: float
    shards_before: int = 0
    audio_before_s: float = 0.0
    usd_per_hour: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. Speeds are seconds of audio per second of wall time, 0 while nothing is done."""

    shards_done: int
    shards: int
    audio_done_s: float
    audio_s: float
    elapsed_s: float
    rtfx_now: float
    rtfx_mean: float
    eta_s: float | None
    usd: float | None
    failed: int
    partial: int
    undone: int
    busy: dict[str, float]  # stage → share of its time, of late
    waiting_for: str | None  # the stage that the others wait for; None: none of them


class Course:
    """Receipts in, Progress out. Remembers about a minute of them, in steps of a second: its memory does not grow."""

    def __init__(self, goal: Goal, clock: Callable[[], float] = time.monotonic) -> None:
        self._goal, self._clock = goal, clock
        self._began_s = clock()
        self._marks = deque([(self._began_s, Tally())])
        self.tally = Tally()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the pass began."""
        return self._clock() - self._began_s

    def add(self, receipt: Receipt | Undone) -> None:
        """Count a shard."""
        self.tally = self.tally.plus(receipt)
        now_s = self._clock()
        if now_s - self._marks[-1][0] >= _MARK_EVERY_S:
            self._marks.append((now_s, self.tally))
        while len(self._marks) > 2 and self._is_enough(now_s, *self._marks[1]):
            self._marks.popleft()

    def _is_enough(self, now_s: float, then_s: float, then: Tally) -> bool:
        return now_s - then_s >= _NOW_S and self.tally.shards - then.shards >= _NOW_SHARDS

    def progress(self) -> Progress:
        """Where the run stands now."""
        goal, tally, elapsed_s = self._goal, self.tally, self.elapsed_s
        since_s, since = self._marks[0]
        now = rtfx(tally.audio_s - since.audio_s, self._clock() - since_s) or 0.0
        mean = rtfx(tally.audio_s, elapsed_s) or 0.0
        left_s = goal.audio_s - goal.audio_before_s - tally.audio_s
        shards_done = goal.shards_before + tally.shards
        is_going = left_s > 0 and 0 < shards_done < goal.shards
        return Progress(
            shards_done=shards_done,
            shards=goal.shards,
            audio_done_s=goal.audio_before_s + tally.audio_s,
            audio_s=goal.audio_s,
            elapsed_s=elapsed_s,
            rtfx_now=now,
            rtfx_mean=mean,
            eta_s=left_s / (now or mean) if is_going and (now or mean) else None,
            usd=None if goal.usd_per_hour is None else goal.usd_per_hour * elapsed_s / 3600,
            failed=tally.failed,
            partial=tally.partial,
            undone=tally.undone,
            busy=tally.busy(since),
            waiting_for=tally.holds_up(since),
        )


class ProgressLine:
    """Prints the line. Not safe in threads: `pipeline.runtime.watch` has the lock."""

    def __init__(self, course: Course, stream: TextIO | None = None) -> None:
        self._course = course
        self._stream = sys.stderr if stream is None else stream
        self._painting = self._stream.isatty()
        self._printed_s = 0.0
        self._printed_shards = 0
        self._is_gone = False

    def show(self) -> None:
        """Print when it is time: soon where the line is rewritten, later in a log, and later still where nothing has come."""
        since_s = self._course.elapsed_s - self._printed_s
        has_news = self._course.tally.shards + self._course.tally.undone > self._printed_shards
        in_log_s = _LOG_EVERY_S if has_news else _QUIET_LOG_EVERY_S
        if since_s >= (_PAINT_EVERY_S if self._painting else in_log_s):
            self._print()

    def note(self, sentence: str) -> None:
        """A line of its own, that stays where the other is rewritten."""
        self._put(f"\r\x1b[2K{sentence}\n" if self._painting else f"{sentence}\n")

    def close(self) -> None:
        """Print the last state."""
        if self._course.tally.shards or self._course.tally.undone:
            self._print()
        if self._painting and self._printed_s:
            self._put("\n")

    def _print(self) -> None:
        self._printed_s = self._course.elapsed_s
        self._printed_shards = self._course.tally.shards + self._course.tally.undone
        text = progress_text(self._course.progress())
        if self._painting:
            # A line that wraps cannot be rewritten.
            text = f"\r\x1b[2K{text[: shutil.get_terminal_size().columns - 1]}"
        self._put(text if self._painting else f"{text}\n")

    def _put(self, text: str) -> None:
        if self._is_gone:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody reads it any more: no reason to end a run
            self._is_gone = True


def say(line: str, stream: TextIO | None = None) -> None:
    """A line on stderr, or another stream. Where nobody reads it any more, that is no reason to end a run."""
    stream = sys.stderr if stream is None else stream
    try:
        print(line, file=stream, flush=True)
    except BrokenPipeError:
        let_go(stream)
    except (OSError, ValueError):
        return


def show(text: str) -> None:
    """What a command was asked for, on stdout. `| head` takes what it wants; a disk that is full is an error."""
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        let_go(sys.stdout)


def is_gone(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads any more."""
    try:
        pipe = select.poll()
        pipe.register(stream.fileno(), select.POLLOUT)
        return any(state & select.POLLERR for _, state in pipe.poll(0))
    except (OSError, ValueError):
        return False


def let_go(stream: TextIO) -> None:
    """Of what is left in the buffer: Python would try to write it at the very end, and change the exit code."""
    with suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def progress_text(progress: Progress) -> str:
    """The line itself, the most wanted first: a narrow terminal cuts off its end."""
    share = progress.audio_done_s / progress.audio_s if progress.audio_s else 1.0
    parts = [f"{progress.audio_done_s / 3600:.2f} of {progress.audio_s / 3600:.2f} h ({min(share, 1.0):.0%})"]
    if progress.rtfx_mean:
        parts.append(f"{progress.rtfx_now:.1f}× real time, mean {progress.rtfx_mean:.1f}×")
    else:
        what = "audio" if progress.failed or progress.partial else "shard"  # shards of failed rows alone have none
        parts.append(f"no {what} yet after {clock(progress.elapsed_s)}")
    if progress.eta_s is not None:
        parts.append(f"{clock(progress.eta_s)} left")
    if progress.usd is not None:
        parts.append(f"${progress.usd:.2f} so far")
    counts = Counter(failed=progress.failed, partial=progress.partial)
    parts += [f"{count:,} {name}" for name, count in counts.items() if count]
    if progress.undone:
        parts.append(f"{progress.undone} shards not done")
    if progress.waiting_for:
        parts.append(f"waiting for {progress.waiting_for} ({progress.busy[progress.waiting_for]:.0%} busy)")
    return " · ".join([*parts, f"{progress.shards_done}/{progress.shards} shards"])


def clock(seconds: float) -> str:
    """ "2 h 05 min", "3 min 20 s", "14 s"."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _sum(one: StepTime, other: StepTime) -> StepTime:
    return StepTime(one.busy_s + other.busy_s, one.wait_s + other.wait_s)
