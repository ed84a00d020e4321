"""One pass over shards as people and programs see it: the line, and the events, also while no shard comes."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TextIO

from pipeline.records import Receipt, Undone
from pipeline.runtime.events import EventLog
from pipeline.runtime.progress import Course, Goal, ProgressLine, Tally

_LOOK_EVERY_S = 1.0
_EVENT_EVERY_S = 10.0


class Watch:
    """Counts receipts and tells of them. A context: in it a thread shows the line while the run waits for the next shard."""

    def __init__(self, goal: Goal, events: EventLog, stream: TextIO | None = None) -> None:
        self._course = Course(goal)
        self._line = ProgressLine(self._course, stream)
        self._events = events
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="progress", daemon=True)
        self._told_s = 0.0
        self._waiting_for: str | None = None

    @property
    def tally(self) -> Tally:
        """What the receipts add up to."""
        return self._course.tally

    @property
    def elapsed_s(self) -> float:
        """Seconds since the pass began."""
        return self._course.elapsed_s

    def add(self, receipt: Receipt | Undone) -> None:
        """Count a shard and tell of it."""
        with self._lock:
            if isinstance(receipt, Undone) and not self._course.tally.undone:
                # The first says what is wrong while it is; the others come when the pass is over.
                self._line.note(f"shard {receipt.shard_id} could not be finished ({receipt.stage}): {receipt.message}")
            self._course.add(receipt)
            self._events.tell_of(receipt)
            self._show()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._line.close()
        self._events.tell_progress(self._course.progress())

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            with self._lock:
                self._show()

    def _show(self) -> None:
        self._line.show()
        if not self._events.is_on:
            return
        progress = self._course.progress()
        if progress.busy and progress.waiting_for != self._waiting_for:
            self._waiting_for = progress.waiting_for
            self._events.tell("stage_waiting", stage=progress.waiting_for, busy=progress.busy)
        if progress.elapsed_s - self._told_s >= _EVENT_EVERY_S:
            self._told_s = progress.elapsed_s
            self._events.tell_progress(progress)
