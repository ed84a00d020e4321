"""How long a worker process serves. Native libraries leak and memory falls to pieces, over days; only a new process helps.

Ray-free. A worker leaves between two calls, alone and with its answers delivered; the call that finds its term over is the
first of its successor.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Term:
    """Counts what a process has done, and has it leave when that is enough.

    `after_shards`, `above_bytes`: of its own memory, shared memory not counted; None: no end. `least_calls`: it stays for so
    many in any case, so that whatever waited for its predecessor is done before it goes too. `leave` ends the process.
    """

    def __init__(
        self, after_shards: int | None, above_bytes: int | None, least_calls: int, leave: Callable[[], None]
    ) -> None:
        self._after_shards, self._above_bytes = after_shards, above_bytes
        self._least_calls, self._leave = least_calls, leave
        self._calls = self._shards = self._running = 0
        self._free = threading.Condition()

    @contextmanager
    def call(self, shards: int = 1) -> Iterator[None]:
        """Around one call over some shards."""
        with self._free:
            if self._is_over():
                self._free.wait_for(lambda: not self._running)
                self._leave()
            self._running += 1
        try:
            yield
        finally:
            with self._free:
                self._running -= 1
                self._calls += 1
                self._shards += shards
                self._free.notify_all()

    def _is_over(self) -> bool:
        if self._calls < self._least_calls:
            return False
        if self._after_shards is not None and self._shards >= self._after_shards:
            return True
        return self._above_bytes is not None and own_bytes() > self._above_bytes


def own_bytes() -> int:
    """Resident memory of this process without what it shares, as with Ray's object store; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            _, resident, shared = file.read().split()[:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * mmap.PAGESIZE
