"""Which chunk ends its worker: shards whose worker died are done one chunk at a time, with a note in the store before each.

A native library that segfaults, the kernel's memory killer, a watchdog that ends a hung engine: all take the process, so only
what was written down before can tell what it was about. A chunk that was alone in its process in two such deaths is given up
(`poison`); its neighbours are published. Ray-free.

<run>/attempts/<shard>/<attempt>/00007-c12     the attempt's 8th chunk to begin is the shard's chunk 12
<run>/attempts/<shard>/<attempt>/00000-all     all chunks of the shard began together, in a process that nobody replaces
<run>/attempts/<shard>/<attempt>/00031-end     the attempt came to its end: none of its chunks did any harm
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import astuple, replace
from uuid import uuid4

from pipeline.config import RunConfig
from pipeline.engines.base import Engine
from pipeline.engines.runner import MemoryBudget
from pipeline.errors import EngineDead, EngineError, StoreError
from pipeline.flow import transcribe
from pipeline.records import DecodedShard, EngineStats, Failure, Hypothesis, TranscribedShard
from pipeline.store.objects import ObjectStore

_DEATHS = 2  # alone in the process both times: one death may be the machine's own
_END, _ALL = "end", "all"


class CrashJournal:
    """What is known of a shard's attempts, and the notes of one more."""

    def __init__(self, store: ObjectStore, shard_id: str) -> None:
        self._store = store
        self._folder = f"attempts/{shard_id}"
        self._attempt = uuid4().hex[:12]
        self._notes = 0

    def poisonous(self) -> frozenset[int]:
        """Chunks (positions in the shard) that were alone in their process when it died, twice. Raises StoreError."""
        return deadly(info.key for info in self._store.list(f"{self._folder}/"))

    def broke_off(self) -> bool:
        """Whether a process ended over the shard without a word. Raises StoreError."""
        notes = _last_notes(info.key for info in self._store.list(f"{self._folder}/"))
        return any(note != _END for note in notes)

    def begin_all(self) -> None:
        """Note that all chunks are next, together. Raises StoreError."""
        self._note(_ALL)

    def begin(self, chunk: int) -> None:
        """Note that a chunk is next; the worker may not come back. Raises StoreError."""
        self._note(f"c{chunk}")

    def end(self) -> None:
        """Note that the attempt came to its end. Raises StoreError."""
        self._note(_END)

    def _note(self, what: str) -> None:
        self._store.put_if_absent(f"{self._folder}/{self._attempt}/{self._notes:05d}-{what}", b"{}")
        self._notes += 1


def deadly(keys: Iterable[str]) -> frozenset[int]:
    """The chunks with which at least two attempts broke off, out of the keys of their notes."""
    deaths = Counter(int(note[1:]) for note in _last_notes(keys) if note not in (_END, _ALL))
    return frozenset(chunk for chunk, count in deaths.items() if count >= _DEATHS)


def _last_notes(keys: Iterable[str]) -> list[str]:
    """What each attempt noted last."""
    last: dict[str, str] = {}
    for key in sorted(keys):
        _, attempt, note = key.rsplit("/", 2)
        last[attempt] = note.partition("-")[2]
    return list(last.values())


class Turns:
    """Lets careful calls run alone in their process, so that its death has one suspect; the others share.

    `careful`: how many calls, from the first, are careful ones; None: all.
    """

    def __init__(self, careful: int | None) -> None:
        self._careful_left = careful
        self._running = 0
        self._alone = False
        self._free = threading.Condition()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """For other work of the process: never while a careful call runs, which would be suspected of its deaths."""
        with self._free:
            self._free.wait_for(lambda: not self._alone)
            self._running += 1
        try:
            yield
        finally:
            with self._free:
                self._running -= 1
                self._free.notify_all()

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Wait for a turn; whether the call is to be careful."""
        with self._free:
            careful = self._careful_left is None or self._careful_left > 0
            if self._careful_left:
                self._careful_left -= 1
            self._free.wait_for(lambda: not self._alone and not (careful and self._running))
            self._alone = careful
            self._running += 1
        try:
            yield careful
        finally:
            with self._free:
                self._running -= 1
                self._alone = self._alone and not careful
                self._free.notify_all()


def transcribe_noted(
    shards: Sequence[DecodedShard], engine: Engine, config: RunConfig, memory: MemoryBudget, store: ObjectStore
) -> list[TranscribedShard]:
    """As `flow.transcribe`, where nobody replaces the process: a note before each shard tells the next run what it died of.

    A shard over which a run ended before is done carefully. Raises EngineDead, StoreError.
    """
    journals = [CrashJournal(store, shard.shard.shard_id) for shard in shards]
    suspects = [journal.broke_off() for journal in journals]
    if not any(suspects):
        return _noted(shards, engine, config, memory, journals)
    done = []
    for shard, journal, is_suspect in zip(shards, journals, suspects, strict=True):
        if is_suspect:
            done.append(transcribe_carefully(shard, engine, config, memory, journal))
        else:
            done += _noted([shard], engine, config, memory, [journal])
    return done


def _noted(
    shards: Sequence[DecodedShard],
    engine: Engine,
    config: RunConfig,
    memory: MemoryBudget,
    journals: Sequence[CrashJournal],
) -> list[TranscribedShard]:
    with ExitStack() as attempts:
        for journal in journals:
            attempts.enter_context(_blaming_deaths_alone(journal))
            journal.begin_all()
        return transcribe(shards, engine, config, memory)


def transcribe_carefully(
    shard: DecodedShard, engine: Engine, config: RunConfig, memory: MemoryBudget, journal: CrashJournal
) -> TranscribedShard:
    """As `flow.transcribe` one shard, chunk by chunk; a chunk that was found to be poison is not tried again.

    Raises EngineDead, StoreError.
    """
    with _blaming_deaths_alone(journal):
        return _one_by_one(shard, engine, config, memory, journal)


@contextmanager
def _blaming_deaths_alone(journal: CrashJournal) -> Iterator[None]:
    """An attempt that breaks off while its process lives, as by a store that fails, is no chunk's doing."""
    try:
        yield
    except EngineDead:
        raise
    except BaseException:
        with suppress(StoreError):
            journal.end()
        raise
    journal.end()


def _one_by_one(
    shard: DecodedShard, engine: Engine, config: RunConfig, memory: MemoryBudget, journal: CrashJournal
) -> TranscribedShard:
    poisonous = journal.poisonous()
    outcomes: list[Hypothesis | Failure] = []
    stats = EngineStats()
    for position, chunk in enumerate(shard.chunks):
        if position in poisonous:
            outcomes.append(_given_up())
            continue
        journal.begin(position)
        (done,) = transcribe([replace(shard, chunks=(chunk,))], engine, config, memory)
        outcomes += done.outcomes
        stats = _added(stats, done.stats)
    return TranscribedShard(shard.shard, shard.windows, shard.chunks, tuple(outcomes), stats)


def _given_up() -> Failure:
    message = f"The engine's process ended {_DEATHS} times over this audio; listen to it, or try another engine."
    return Failure.of(EngineError("poison", message))


def _added(one: EngineStats, other: EngineStats) -> EngineStats:
    return EngineStats(*(a + b for a, b in zip(astuple(one), astuple(other), strict=True)))
