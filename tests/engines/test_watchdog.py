"""The watchdog: nothing where the work is done in time, the end of the process where it is not."""

from __future__ import annotations

import subprocess
import sys
import threading

from pipeline.engines.watchdog import watched

HANGS = """
import sys, time
from pipeline.engines.watchdog import watched
with watched(float(sys.argv[1])):
    time.sleep(60)
"""


def test_work_that_is_done_in_time_is_left_alone() -> None:
    rung = threading.Event()
    with watched(0.2, end=lambda deadline_s: rung.set()):
        pass
    assert not rung.wait(0.4)


def test_work_that_is_not_is_told_while_it_still_hangs() -> None:
    told: list[float] = []
    rung = threading.Event()
    with watched(0.05, end=lambda deadline_s: (told.append(deadline_s), rung.set())):  # type: ignore[func-returns-value]
        assert rung.wait(10)
    assert told == [0.05]


def test_a_process_whose_engine_hangs_ends_with_its_stacks() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS, "0.3"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "did not come back from a batch" in done.stderr
    assert "batch.timeout_s" in done.stderr
    assert "time.sleep" in done.stderr or "<string>" in done.stderr, "whoever looks must see where it hung"
