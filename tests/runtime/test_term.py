"""How long a worker serves: it leaves between calls, alone, not before its predecessor's calls are done."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.runtime.term import Term


class LeftError(Exception):
    """Stands for the end of the process."""


def leave() -> None:
    raise LeftError


def serve(term: Term, calls: int) -> int:
    """How many calls it takes before it leaves."""
    for number in range(calls):
        try:
            with term.call():
                pass
        except LeftError:
            return number
    return calls


@pytest.mark.parametrize(("after_shards", "least_calls", "expected"), [(5, 1, 5), (2, 4, 4), (None, 1, 50)])
def test_it_leaves_after_so_many(after_shards: int | None, least_calls: int, expected: int) -> None:
    assert serve(Term(after_shards, None, least_calls, leave), 50) == expected


_IN_A_SMALL_PROCESS = """
import numpy as np
from test_term import leave, serve
from pipeline.runtime.term import Term, own_bytes

limit = own_bytes() + 64 * 2**20
served = [serve(Term(None, limit, 1, leave), 50)]
held = np.ones(128 * 2**20, np.uint8)
served.append(serve(Term(None, limit, 1, leave), 50))
del held
served.append(serve(Term(None, limit, 1, leave), 50))
print(served)
"""


def test_it_leaves_when_it_holds_much_and_shared_memory_is_none_of_it() -> None:
    """In a process of its own: one that has run a thousand tests gives back, or swaps out, more than is held here."""
    folders = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": folders}
    done = subprocess.run([sys.executable, "-c", _IN_A_SMALL_PROCESS], env=environment, capture_output=True, text=True)
    assert done.stdout == "[50, 1, 50]\n", done.stderr


def test_it_does_not_leave_while_another_call_runs() -> None:
    running, left_beside = [0], []

    def leave_and_note() -> None:
        left_beside.append(running[0])
        raise LeftError

    term = Term(3, None, 1, leave_and_note)

    def serve_slowly() -> None:
        while True:
            try:
                with term.call():
                    running[0] += 1
                    time.sleep(0.01)
                    running[0] -= 1
            except LeftError:
                return

    threads = [threading.Thread(target=serve_slowly) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left_beside == [0, 0, 0]
