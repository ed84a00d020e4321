"""What a worker process holds: a decoder child, an engine, a store. Ray-free; both flows use these.

Each class is one stage of the flow with its long-lived resources. They are made inside the worker that uses them:
only the frozen `Assignment` travels.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.audio.reader import AudioReader
from pipeline.config import RunConfig
from pipeline.engines.base import create_engine
from pipeline.engines.runner import MemoryBudget
from pipeline.errors import EngineDead, QuarryError, RefusedError, StoreRefusedError
from pipeline.flow import decode, publish, transcribe
from pipeline.records import DecodedShard, Receipt, RunIdentity, TranscribedShard, Undone
from pipeline.runtime.crashes import CrashJournal, Turns, transcribe_carefully
from pipeline.store.ledger import ShardReader
from pipeline.store.objects import ObjectStore

logger = logging.getLogger(__name__)

_NEIGHBOURS = 16  # by chance: were half of an archive closed to us, one in 65,000 such samples would be closed whole


@dataclass(frozen=True, slots=True)
class Assignment:
    """Everything a worker must know about the run."""

    config: RunConfig
    identity: RunIdentity
    run_uri: str
    roots: tuple[str, ...]
    max_chunk_s: float
    careful: bool = False  # these shards have ended their workers before


class Decoder:
    """Shard entries in, decoded shards out."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        config = assignment.config
        self._plan = ShardReader(ObjectStore(assignment.run_uri, config.store))
        self._reader = AudioReader(config.decode, config.source, assignment.roots, self._neighbours)

    def decode(self, shard_id: str, plan_key: str, row_group: int) -> DecodedShard | Undone:
        """Fetch, decode and cut one shard."""
        try:
            shard = self._plan.shard(shard_id, plan_key, row_group)
            decoded = decode(shard, self._reader, self._assignment.config, self._assignment.max_chunk_s)
            return replace(decoded, decoded_at_s=time.time())
        except Exception as error:  # noqa: BLE001 - a shard that breaks a step must not end the run
            return undone(shard_id, "decode", error)

    def _neighbours(self) -> list[str]:
        """Objects that tell whether a store refuses one recording or everything."""
        return [self._assignment.config.manifest, *self._plan.uris(_NEIGHBOURS)]

    def close(self) -> None:
        """End the decoder child."""
        self._reader.close()


class Transcriber:
    """Decoded shards in, transcribed shards out; safe to call from several threads.

    `replaces_a_dead_one`: the first calls are those that its predecessor in the pool may have died of.
    """

    def __init__(self, assignment: Assignment, replaces_a_dead_one: bool = False) -> None:
        self._config = assignment.config
        self._store = ObjectStore(assignment.run_uri, assignment.config.store)
        in_flight = 2 * assignment.config.runtime.concurrent_calls  # Ray Data's own figure
        self._turns = Turns(None if assignment.careful else in_flight if replaces_a_dead_one else 0)
        self._engine = create_engine(assignment.config.engine)
        self._engine.load()
        self._memory = MemoryBudget()
        self._idle = IdleClock()

    def transcribe(self, shards: Sequence[DecodedShard]) -> list[TranscribedShard | Undone]:
        """Recognise some shards, packed together. Raises EngineDead: this process cannot go on."""
        if not shards:
            return []
        wait_s, began_at_s = self._idle.begin(), time.time()
        try:
            with self._turns.turn() as careful:
                done = self._transcribe(shards, careful)
        except EngineDead:
            raise
        except Exception as error:  # noqa: BLE001 - a shard that breaks a step must not end the run
            return [undone(shard.shard.shard_id, "transcribe", error) for shard in shards]
        finally:
            self._idle.end()
        waits_s = [wait_s, *[0.0] * (len(done) - 1)]
        return [
            _timed(shard, waited_s, began_at_s - (decoded.decoded_at_s or began_at_s))
            for shard, decoded, waited_s in zip(done, shards, waits_s, strict=True)
        ]

    def _transcribe(self, shards: Sequence[DecodedShard], careful: bool) -> list[TranscribedShard]:
        if not careful:
            return transcribe(shards, self._engine, self._config, self._memory)
        return [
            transcribe_carefully(
                shard, self._engine, self._config, self._memory, CrashJournal(self._store, shard.shard.shard_id)
            )
            for shard in shards
        ]

    def close(self) -> None:
        """Give the engine's memory back."""
        self._engine.close()


class Publisher:
    """Transcribed shards in, receipts out."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._store = ObjectStore(assignment.run_uri, assignment.config.store)

    def publish(self, shard: TranscribedShard) -> Receipt | Undone:
        """Put the shard's part."""
        try:
            return publish(shard, self._store, self._assignment.identity, self._assignment.config)
        except Exception as error:  # noqa: BLE001 - a shard that breaks a step must not end the run
            return undone(shard.shard.shard_id, "publish", error)


def _timed(shard: TranscribedShard, wait_s: float, queued_s: float) -> TranscribedShard:
    """With who waited for whom. Two machines' clocks may differ by more than a shard waits: never less than nothing."""
    times = {"wait_s": wait_s, "queued_s": max(0.0, queued_s), "done_at_s": time.time()}
    return replace(shard, stats=replace(shard.stats, **times))


def undone(shard_id: str, stage: str, error: Exception) -> Undone:
    """Why a shard is not finished, in one line; the whole story goes to the worker's log."""
    logger.error("shard %s is not done", shard_id, exc_info=error)
    name = "" if isinstance(error, QuarryError) else f"{type(error).__name__}: "
    refused = isinstance(error, RefusedError | StoreRefusedError)
    return Undone(shard_id, stage, (name + " ".join(str(error).split()))[:500], refused)


class IdleClock:
    """Seconds in which no call was running: what an engine waited for its input."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._idle_since = time.monotonic()

    def begin(self) -> float:
        """A call starts; returns how long nothing ran before it (0 while another call runs)."""
        with self._lock:
            waited_s = 0.0 if self._running else time.monotonic() - self._idle_since
            self._running += 1
            return waited_s

    def end(self) -> None:
        """A call is over."""
        with self._lock:
            self._running -= 1
            self._idle_since = time.monotonic()
