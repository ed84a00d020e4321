"""How long a worker serves: it leaves between calls, alone, not before its predecessor's calls are done."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pipeline.runtime.term import Term, own_bytes


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


def test_it_leaves_when_it_holds_much_and_shared_memory_is_none_of_it() -> None:
    limit = own_bytes() + 64 * 2**20
    assert serve(Term(None, limit, 1, leave), 50) == 50
    held = np.ones(128 * 2**20, np.uint8)
    assert serve(Term(None, limit, 1, leave), 50) == 1
    del held
    assert serve(Term(None, limit, 1, leave), 50) == 50


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
