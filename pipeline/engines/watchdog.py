"""Ends a process whose engine does not come back: a call that hangs in a driver or a kernel cannot be interrupted."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

EXIT_CODE = 3  # incomplete: the same command resumes


@contextmanager
def watched(deadline_s: float, end: Callable[[float], None] | None = None) -> Iterator[None]:
    """Do the block's work, or after `deadline_s` seconds have `end` called, from a thread of its own.

    By default the stacks of all threads go to stderr and the process ends at once. A library that hangs with Python's lock in
    its hand stops the watchdog, too; those in use let go of it while they compute.
    """
    timer = threading.Timer(deadline_s, end or _end_process, (deadline_s,))
    timer.daemon = True
    with suppress(RuntimeError):  # no memory for a thread: none for the work either, which tells so in its own words
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_process(deadline_s: float) -> None:
    sys.stderr.write(
        f"quarry: the engine did not come back from a batch in {deadline_s:.0f} s, so its process was ended; the same command "
        "resumes, and batch.timeout_s allows more.\n"
    )
    sys.stderr.flush()
    faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    os._exit(EXIT_CODE)
