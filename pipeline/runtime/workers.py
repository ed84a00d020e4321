"""What a worker process holds: a decoder child, an engine, a store. Ray-free; both flows use these.

Each class is one stage of the flow with its long-lived resources. They are made inside the worker that uses them:
only the frozen `Assignment` travels.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from pipeline.audio.reader import AudioReader
from pipeline.config import RunConfig
from pipeline.engines.base import create_engine
from pipeline.engines.runner import MemoryBudget
from pipeline.errors import EngineDead, QuarryError, RefusedError, StoreRefusedError
from pipeline.flow import decode, publish, transcribe
from pipeline.metrics.measures import (
    AUDIO_SECONDS,
    DECODE_SECONDS,
    ENGINE_BUSY_RATIO,
    PUBLISH_SECONDS,
    QUEUE_DEPTH,
    ROWS,
    ROWS_FAILED,
    SILENT,
    STAGE_BUSY,
    STAGE_WAIT,
    WORKERS_REPLACED,
    Recorder,
    language_label,
)
from pipeline.records import DecodedShard, Failure, Receipt, RunIdentity, StepTime, TranscribedShard, Undone
from pipeline.runtime.crashes import CrashJournal, Turns, transcribe_carefully, transcribe_noted
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
    """Shard entries in, decoded shards out. `recorder` is told what it took."""

    def __init__(self, assignment: Assignment, replaces_a_dead_one: bool = False, recorder: Recorder = SILENT) -> None:
        self._assignment = assignment
        self._recorder = recorder
        self._news = News("decode", replaces_a_dead_one, recorder)
        config = assignment.config
        self._plan = ShardReader(ObjectStore(assignment.run_uri, config.store))
        self._reader = AudioReader(config.decode, config.source, assignment.roots, self._neighbours)
        self._idle = IdleClock()

    def decode(self, shard_id: str, plan_key: str, row_group: int) -> DecodedShard | Undone:
        """Fetch, decode and cut one shard."""
        wait_s, began_s = self._idle.begin(), time.monotonic()
        try:
            shard = self._plan.shard(shard_id, plan_key, row_group)
            decoded = decode(shard, self._reader, self._assignment.config, self._assignment.max_chunk_s)
            spent = StepTime(time.monotonic() - began_s, wait_s)
            self._tell(decoded, spent)
            return replace(decoded, decoded_at_s=time.time(), decoding=spent, replaced=self._news.once())
        except Exception as error:  # noqa: BLE001 - a shard that breaks a step must not end the run
            return undone(shard_id, "decode", error)
        finally:
            self._idle.end()

    def _tell(self, decoded: DecodedShard, spent: StepTime) -> None:
        tell_times(self._recorder, "decode", spent)
        self._recorder.record(DECODE_SECONDS, spent.busy_s)
        default = self._assignment.config.engine.language
        for planned, window in zip(decoded.shard.windows, decoded.windows, strict=True):
            lang = language_label(planned.recording.language or default)
            self._recorder.record(AUDIO_SECONDS, window.end_s - window.start_s, lang=lang, stage="decode")

    def _neighbours(self) -> list[str]:
        """Objects that tell whether a store refuses one recording or everything."""
        return [self._assignment.config.manifest, *self._plan.uris(_NEIGHBOURS)]

    def close(self) -> None:
        """End the decoder child."""
        self._reader.close()


class Transcriber:
    """Decoded shards in, transcribed shards out; safe to call from several threads.

    `replaces_a_dead_one`: the first calls are those that its predecessor in the pool may have died of. `takes_notes`: nobody
    replaces this process, so it writes down what it begins, for the next run to see.
    """

    def __init__(
        self,
        assignment: Assignment,
        replaces_a_dead_one: bool = False,
        recorder: Recorder = SILENT,
        takes_notes: bool = False,
    ) -> None:
        self._takes_notes = takes_notes
        self._config = assignment.config
        self._recorder = recorder
        self._news = News("engine", replaces_a_dead_one, recorder)
        self._store = ObjectStore(assignment.run_uri, assignment.config.store)
        in_flight = assignment.config.runtime.calls_in_flight
        self._turns = Turns(None if assignment.careful else in_flight if replaces_a_dead_one else 0)
        self._engine = create_engine(assignment.config.engine)
        self._engine.load()
        self._memory = MemoryBudget(recorder)
        self._idle = IdleClock()

    def transcribe(self, shards: Sequence[DecodedShard]) -> list[TranscribedShard | Undone]:
        """Recognise some shards, packed together. Raises EngineDead: this process cannot go on."""
        if not shards:
            return []
        wait_s, began_at_s = self._idle.begin(), time.time()
        self._recorder.record(QUEUE_DEPTH, self._idle.waiting, stage="engine")
        try:
            with self._turns.turn() as careful:
                done = self._transcribe(shards, careful)
        except EngineDead:
            raise
        except Exception as error:  # noqa: BLE001 - a shard that breaks a step must not end the run
            return [undone(shard.shard.shard_id, "transcribe", error) for shard in shards]
        finally:
            self._idle.end()
            self._recorder.record(QUEUE_DEPTH, self._idle.waiting, stage="engine")
        done = [replace(one, decoding=it.decoding, replaced=it.replaced) for one, it in zip(done, shards, strict=True)]
        done[0] = replace(done[0], replaced=(*done[0].replaced, *self._news.once()))
        self._tell(done, wait_s)
        waits_s = [wait_s, *[0.0] * (len(done) - 1)]
        return [
            _timed(shard, waited_s, began_at_s, decoded.decoded_at_s or began_at_s)
            for shard, decoded, waited_s in zip(done, shards, waits_s, strict=True)
        ]

    def publishing(self) -> AbstractContextManager[None]:
        """Hold this while the worker publishes: it waits for calls that are careful, and they for it."""
        return self._turns.beside()

    def _tell(self, done: Sequence[TranscribedShard], wait_s: float) -> None:
        spent = StepTime(sum(shard.stats.engine_s for shard in done), wait_s)
        tell_times(self._recorder, "engine", spent)
        if spent.busy_s + wait_s > 0:
            self._recorder.record(ENGINE_BUSY_RATIO, spent.busy_s / (spent.busy_s + wait_s))
        for shard in done:
            for chunk, outcome in zip(shard.chunks, shard.outcomes, strict=True):
                given = shard.shard.windows[chunk.window].recording.language or self._config.engine.language
                lang = language_label((None if isinstance(outcome, Failure) else outcome.language) or given)
                self._recorder.record(AUDIO_SECONDS, chunk.audio_s, lang=lang, stage="engine")

    def _transcribe(self, shards: Sequence[DecodedShard], careful: bool) -> list[TranscribedShard]:
        if self._takes_notes and not careful:
            return transcribe_noted(shards, self._engine, self._config, self._memory, self._store)
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
    """Transcribed shards in, receipts out; safe to call from several threads."""

    def __init__(self, assignment: Assignment, recorder: Recorder = SILENT) -> None:
        self._assignment = assignment
        self._store = ObjectStore(assignment.run_uri, assignment.config.store)
        self._recorder = recorder
        self._idle = IdleClock()

    def publish(self, shard: TranscribedShard) -> Receipt | Undone:
        """Put the shard's part."""
        wait_s, began_s = self._idle.begin(), time.monotonic()
        try:
            receipt = publish(shard, self._store, self._assignment.identity, self._assignment.config)
        except Exception as error:  # noqa: BLE001 - a shard that breaks a step must not end the run
            return undone(shard.shard.shard_id, "publish", error)
        finally:
            self._idle.end()
        spent = StepTime(time.monotonic() - began_s, wait_s)
        self._tell(receipt, spent)
        return replace(receipt, publishing=spent)

    def _tell(self, receipt: Receipt, spent: StepTime) -> None:
        tell_times(self._recorder, "store", spent)
        self._recorder.record(PUBLISH_SECONDS, spent.busy_s)
        for status in ("ok", "partial", "failed"):
            self._recorder.record(ROWS, getattr(receipt, status), status=status)
        for code, count in receipt.failure_codes.items():
            self._recorder.record(ROWS_FAILED, count, code=code)
        for lang, audio_s in receipt.languages.items():
            self._recorder.record(AUDIO_SECONDS, audio_s, lang=lang, stage="store")


class News:
    """That a worker took the place of one that died: told with its first shard, and once."""

    def __init__(self, stage: str, replaces_a_dead_one: bool, recorder: Recorder) -> None:
        self._left = (stage,) if replaces_a_dead_one else ()
        if replaces_a_dead_one:
            recorder.record(WORKERS_REPLACED, stage=stage)

    def once(self) -> tuple[str, ...]:
        """The stage, the first time; then nothing."""
        told, self._left = self._left, ()
        return told


def tell_times(recorder: Recorder, stage: str, spent: StepTime) -> None:
    """What a stage's worker did with its time over one shard."""
    recorder.record(STAGE_BUSY, spent.busy_s, stage=stage)
    recorder.record(STAGE_WAIT, spent.wait_s, stage=stage)


def _timed(shard: TranscribedShard, wait_s: float, began_at_s: float, decoded_at_s: float) -> TranscribedShard:
    """With who waited for whom. Two machines' clocks may differ by more than a shard waits: never less than nothing."""
    now_s = time.time()
    queued_s, call_s = max(0.0, began_at_s - decoded_at_s), max(0.0, now_s - began_at_s)
    stats = replace(shard.stats, wait_s=wait_s, queued_s=queued_s, call_s=call_s, done_at_s=now_s)
    return replace(shard, stats=stats)


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

    @property
    def waiting(self) -> int:
        """Calls that are there beside the one that is served."""
        return max(0, self._running - 1)
