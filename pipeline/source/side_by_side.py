"""Several sources read at once, by threads that wait for a store; what comes of them comes in the order of the sources.

What is under way is bounded: some sources at a time, some pieces of each. Knows nothing of what is read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

_PIECES_WAITING = 4
_PIECE_ITEMS = 256
_POLL_S = 0.2

S = TypeVar("S")
T = TypeVar("T")


def side_by_side(sources: Iterable[S], read: Callable[[S], Iterator[T]], at_once: int) -> Iterator[tuple[S, T]]:
    """Every source with each item that `read` finds in it. What `read` raises is raised here, in its place."""
    waiting: deque[_Reading[S, T]] = deque()
    more = iter(sources)
    try:
        waiting.extend(_Reading(source, read) for source in islice(more, at_once))
        while waiting:
            for item in waiting[0].items():
                yield waiting[0].source, item
            waiting.popleft()
            waiting.extend(_Reading(source, read) for source in islice(more, 1))
    finally:
        for reading in waiting:
            reading.stop()


class _Reading(Generic[S, T]):
    """One source, read by a thread of its own."""

    def __init__(self, source: S, read: Callable[[S], Iterator[T]]) -> None:
        self.source = source
        self._read = read
        self._pieces: Queue[list[T] | Exception | None] = Queue(_PIECES_WAITING)
        self._stopped = Event()
        Thread(target=self._run, name="read-ahead", daemon=True).start()

    def items(self) -> Iterator[T]:
        """What was read, as it comes."""
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield from piece

    def stop(self) -> None:
        """Nobody wants the rest."""
        self._stopped.set()
        while True:
            try:
                self._pieces.get_nowait()
            except Empty:
                return

    def _run(self) -> None:
        try:
            items = self._read(self.source)
            while piece := list(islice(items, _PIECE_ITEMS)):
                if not self._put(piece):
                    return
        except Exception as error:  # noqa: BLE001  raised again by whoever reads
            self._put(error)
            return
        self._put(None)

    def _put(self, piece: list[T] | Exception | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._pieces.put(piece, timeout=_POLL_S)
                return True
            except Full:
                continue
        return False
