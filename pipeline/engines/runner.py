"""The one place that runs an engine over many chunks: packs batches, survives those that fail, restores the order.

Knows nothing of shards or Ray. A batch that does not fit, or that breaks the engine, is halved until it works or is a
single chunk: a bad chunk costs itself and a few small batches, never its neighbours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from pipeline.batching import Indices, pack_batches, padded_s
from pipeline.config import BatchConfig
from pipeline.engines.base import Engine, EngineSpec
from pipeline.engines.requests import PLAIN, Wish, lacking, primary_language, shortfall
from pipeline.engines.watchdog import watched
from pipeline.errors import EngineDead, EngineError, EngineOutOfMemory, ItemError
from pipeline.metrics.measures import BATCH_FILL, OOM_BACKOFFS, PADDING, SILENT, Recorder
from pipeline.records import ChunkAudio, EngineStats, Failure, Hypothesis


class MemoryBudget:
    """What one process has learned about its engine's memory; all calls of it share that, and whom they tell of batches."""

    def __init__(self, recorder: Recorder = SILENT) -> None:
        self.recorder = recorder
        self.limit_s = float("inf")  # padded seconds per batch
        self.clock = SharedClock()
        self.line = Line()

    def did_not_fit(self, seconds: float) -> None:
        """A batch of so many padded seconds ran out of memory: try half, and never more again."""
        self.limit_s = min(self.limit_s, seconds / 2)
        self.recorder.record(OOM_BACKOFFS)


class Line:
    """What calls that share an engine may take: it does one batch at a time, so a call also waits for those before it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._allowed_s = 0.0  # of all calls that are in it

    @contextmanager
    def joined(self, allowed_s: float) -> Iterator[float]:
        """A call that may take so long joins; the seconds after which it must be over, whatever it found before it."""
        with self._lock:
            self._allowed_s += allowed_s
            deadline_s = self._allowed_s
        try:
            yield deadline_s
        finally:
            with self._lock:
                self._allowed_s -= allowed_s


class SharedClock:
    """Divides the seconds in which calls overlap among them, so that the calls' seconds add up to wall time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._shared_s = 0.0
        self._read_s = 0.0

    def enter(self) -> float:
        """A call begins; returns the mark for `leave`."""
        return self._step(+1)

    def leave(self, mark: float) -> float:
        """The call is over; returns its share in seconds."""
        return self._step(-1) - mark

    def _step(self, change: int) -> float:
        with self._lock:
            now_s = time.perf_counter()
            if self._inside:
                self._shared_s += (now_s - self._read_s) / self._inside
            self._read_s = now_s
            self._inside += change
            return self._shared_s


def run_batches(
    engine: Engine,
    chunks: Sequence[ChunkAudio],
    batch: BatchConfig,
    memory: MemoryBudget,
    asked: Wish = PLAIN,
) -> tuple[list[Hypothesis | Failure], EngineStats]:
    """One outcome per chunk, in order, and what they cost (`wait_s` is the caller's to fill).

    `asked` is what the config asks of the engine, for chunks that say nothing else. A hypothesis whose chunk's keywords the
    engine cannot take has the warning `keywords_ignored`. Raises EngineDead; whatever else goes wrong becomes the
    Failure of the chunk that caused it.
    """
    spec = engine.spec
    audio_s = np.array([chunk.audio_s for chunk in chunks], np.float64)
    outcomes: list[Hypothesis | Failure | None] = [_refusal(spec, chunk, asked) for chunk in chunks]
    accepted = np.array([index for index, outcome in enumerate(outcomes) if outcome is None], np.intp)
    limit_s = min(batch.max_audio_s, memory.limit_s)
    packed = pack_batches(
        audio_s[accepted],
        max_audio_s=limit_s,
        max_chunks=batch.max_chunks,
        padding=spec.padding,
        fixed_s=spec.max_chunk_s,
    )
    waiting = [accepted[positions] for positions in reversed(packed)]
    attempts = np.zeros(len(chunks), np.intp)
    stats = EngineStats(audio_s=float(audio_s[accepted].sum()))
    while waiting:
        indices = waiting.pop()
        seconds = padded_s(audio_s, indices, spec.padding, spec.max_chunk_s)
        if len(indices) > 1 and seconds > memory.limit_s:
            waiting += _halves(indices)
            continue
        attempts[indices] += 1
        mark = memory.clock.enter()
        allowed_s = batch.timeout_s + batch.timeout_per_audio_s * seconds
        with memory.line.joined(allowed_s) as deadline_s, watched(deadline_s):
            found = _attempt(engine, [_plain(chunks[index]) for index in indices])
        engine_s = stats.engine_s + memory.clock.leave(mark)
        stats = replace(stats, engine_s=engine_s, padded_s=stats.padded_s + seconds, batches=stats.batches + 1)
        memory.recorder.record(BATCH_FILL, seconds / batch.max_audio_s)
        memory.recorder.record(PADDING, 1 - float(audio_s[indices].sum()) / seconds if seconds else 0.0)
        if isinstance(found, Failure) and len(indices) > 1:
            if found.code == "engine_oom":
                memory.did_not_fit(seconds)
                stats = replace(stats, backoffs=stats.backoffs + 1)
            waiting += _halves(indices)
        elif isinstance(found, Failure):
            outcomes[indices[0]] = replace(found, attempts=int(attempts[indices[0]]))
        else:
            for index, hypothesis in zip(indices, found, strict=True):
                outcomes[index] = _with_warnings(spec, chunks[index], hypothesis)
                stats = _with_drafts(stats, hypothesis, float(audio_s[index]))
    return [outcome for outcome in outcomes if outcome is not None], stats


def _with_drafts(stats: EngineStats, hypothesis: Hypothesis, audio_s: float) -> EngineStats:
    """What drafts were good for in one hypothesis, added to what is known."""
    if hypothesis.is_draft:
        stats = replace(stats, draft_s=stats.draft_s + audio_s)
    if hypothesis.n_foretold is None:
        return stats
    return replace(
        stats,
        drafted_tokens=stats.drafted_tokens + (hypothesis.n_tokens or 0),
        foretold_tokens=stats.foretold_tokens + hypothesis.n_foretold,
    )


def _attempt(engine: Engine, chunks: list[ChunkAudio]) -> list[Hypothesis] | Failure:
    """What the engine heard, or why the whole batch failed."""
    try:
        found = engine.transcribe(chunks)
        if len(found) != len(chunks):
            raise EngineError("engine_error", f"The engine gave {len(found)} hypotheses for {len(chunks)} chunks.")
        return found
    except EngineDead:
        raise
    except MemoryError:
        return Failure.of(EngineOutOfMemory())
    except ItemError as error:
        return Failure.of(error)
    except Exception as error:  # noqa: BLE001 - whatever a model does to one chunk must stay that chunk's failure
        return Failure.of(EngineError("engine_error", f"The engine failed: {type(error).__name__}: {error}"))


def _refusal(spec: EngineSpec, chunk: ChunkAudio, asked: Wish) -> Failure | None:
    """Why the engine cannot be asked about this chunk; None: it can."""
    wish = asked.of_row(chunk.task, chunk.language, chunk.target_language, bool(chunk.keywords))
    against = lacking(wish, spec)
    if against is None:
        return None
    sentence = f"The engine {shortfall(wish, spec)}."
    return Failure.of(EngineError("task_unsupported" if against == "task" else "language_unsupported", sentence))


def _with_warnings(spec: EngineSpec, chunk: ChunkAudio, hypothesis: Hypothesis) -> Hypothesis:
    if not chunk.keywords or "keywords" in spec.features:
        return hypothesis
    return replace(hypothesis, warnings=(*hypothesis.warnings, "keywords_ignored"))


def _plain(chunk: ChunkAudio) -> ChunkAudio:
    return replace(chunk, language=primary_language(chunk.language)) if chunk.language else chunk


def _halves(indices: Indices) -> list[Indices]:
    """Longest chunks last, so that they are popped first, as packed."""
    middle = (len(indices) + 1) // 2
    return [indices[middle:], indices[:middle]]
