"""The runner, with the fake engine's faults: nothing is lost, nothing is blamed on a neighbour, memory is learned."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.fake import Fake
from pipeline.engines.requests import Wish
from pipeline.engines.runner import MemoryBudget, SharedClock, run_batches
from pipeline.errors import EngineDead
from pipeline.records import ChunkAudio, Failure, Hypothesis

BATCH = BatchConfig(max_audio_s=40, max_chunks=8)
CULPRIT_PEAK = 31_999


def fake(**options: object) -> Fake:
    return Fake(EngineConfig(name="fake", options=options))


def clip(seconds: float, seed: int = 0, language: str | None = None, peak: int | None = None) -> ChunkAudio:
    samples = np.random.default_rng(seed).integers(-20_000, 20_000, int(seconds * 16_000), np.int16)
    if peak is not None:
        samples[0] = peak
    return ChunkAudio(samples, language)


def clips(count: int) -> list[ChunkAudio]:
    return [clip(0.5 + 2.7 * index % 9, index) for index in range(count)]


def texts(engine: Fake, chunks: Sequence[ChunkAudio]) -> list[str]:
    return [engine.transcribe([chunk])[0].text for chunk in chunks]


def failures(outcomes: Sequence[Hypothesis | Failure]) -> dict[int, Failure]:
    return {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, Failure)}


@settings(max_examples=40)
@given(
    tenths=st.lists(st.integers(0, 300), max_size=20),
    culprits=st.sets(st.integers(0, 19), max_size=3),
    oom_above_s=st.none() | st.floats(5, 60),
)
def test_every_chunk_gets_its_own_outcome(tenths: list[int], culprits: set[int], oom_above_s: float | None) -> None:
    chunks = [clip(n / 10, i, peak=CULPRIT_PEAK if i in culprits and n else None) for i, n in enumerate(tenths)]
    expected = texts(fake(), chunks)
    engine = fake(fail_on_peak=CULPRIT_PEAK, oom_above_s=oom_above_s)
    outcomes, stats = run_batches(engine, chunks, BATCH, MemoryBudget())
    assert len(outcomes) == len(chunks)
    for index, (chunk, outcome) in enumerate(zip(chunks, outcomes, strict=True)):
        if oom_above_s is not None and chunk.audio_s > oom_above_s:
            assert isinstance(outcome, Failure)
            assert outcome.code == "engine_oom"
        elif index in culprits and len(chunk.samples):
            assert isinstance(outcome, Failure)
            assert outcome.code == "engine_error"
        else:
            assert isinstance(outcome, Hypothesis)
            assert outcome.text == expected[index]
    assert stats.audio_s == pytest.approx(sum(chunk.audio_s for chunk in chunks))
    assert stats.batches == engine.calls


def test_stats_count_audio_padding_and_batches() -> None:
    chunks = [clip(10), clip(8, 1), clip(10, 2), clip(8, 3), clip(6, 4)]
    _, stats = run_batches(fake(), chunks, BATCH, MemoryBudget())
    assert (stats.audio_s, stats.padded_s, stats.batches, stats.wait_s) == (42, 46, 2, 0)


def test_memory_is_learned_once_and_remembered() -> None:
    engine, memory = fake(oom_above_s=12.0), MemoryBudget()
    outcomes, _ = run_batches(engine, clips(40), BATCH, memory)
    assert not failures(outcomes)
    assert memory.limit_s <= 12 * 2
    tries_before = engine.calls
    again, stats = run_batches(engine, clips(40), BATCH, memory)
    assert again == outcomes
    assert engine.calls - tries_before == stats.batches < tries_before
    assert stats.padded_s <= stats.batches * memory.limit_s


def test_a_chunk_too_large_for_the_device_fails_alone_and_lowers_no_limit() -> None:
    memory = MemoryBudget()
    outcomes, _ = run_batches(fake(oom_above_s=12.0), [clip(13), clip(2, 1)], BATCH, memory)
    assert failures(outcomes) == {0: Failure("transcribe", "engine_oom", "the batch did not fit in memory", attempts=2)}
    assert memory.limit_s == 13.0  # half of the two chunks' padded 26 s
    run_batches(fake(oom_above_s=12.0), [clip(13)], BATCH, memory)
    assert memory.limit_s == 13.0


def test_one_culprit_costs_itself_and_a_few_calls() -> None:
    chunks = [clip(1, seed) for seed in range(64)]
    chunks[41] = clip(1, 41, peak=CULPRIT_PEAK)
    engine = fake(fail_on_peak=CULPRIT_PEAK)
    outcomes, _ = run_batches(engine, chunks, BatchConfig(max_audio_s=64, max_chunks=64), MemoryBudget())
    assert [*failures(outcomes)] == [41]
    assert failures(outcomes)[41].attempts == 7  # 64, 32 … 1
    assert engine.calls == 13


class Slow(Fake):
    """Needs a while for a batch, and does one at a time."""

    def __init__(self, takes_s: float) -> None:
        super().__init__(EngineConfig(name="fake"))
        self.takes_s = takes_s
        self.begun = threading.Event()
        self.turn = threading.Lock()

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        """As the fake engine, later."""
        with self.turn:
            self.begun.set()
            time.sleep(self.takes_s)
            return super().transcribe(chunks)


def test_a_call_is_not_ended_for_waiting_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine comes back from every batch in time; the second call waits for the first one's batch as well."""
    ended: list[float] = []
    monkeypatch.setattr("pipeline.engines.watchdog._end_process", ended.append)
    engine, memory, batch = Slow(1.6), MemoryBudget(), BatchConfig(timeout_s=3.1, timeout_per_audio_s=0)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(run_batches, engine, [clip(1, 0)], batch, memory)
        assert engine.begun.wait(60), "who joins first is served first"
        second = threads.submit(run_batches, engine, [clip(1, 1)], batch, memory)
    assert not any(failures(call.result()[0]) for call in (first, second))
    assert ended == []
    engine.takes_s = 0.5
    with ThreadPoolExecutor(2) as threads:
        list(
            threads.map(
                lambda seed: run_batches(
                    engine, [clip(1, seed)], BatchConfig(timeout_s=0.2, timeout_per_audio_s=0), memory
                ),
                range(2),
            )
        )
    assert ended, "what hangs is still ended"


def test_death_is_not_caught() -> None:
    with pytest.raises(EngineDead, match="call 2"):
        run_batches(fake(die_on_call=2), clips(40), BATCH, MemoryBudget())


def test_a_fault_told_to_happen_once_does(tmp_path: object) -> None:
    once = {"die_on_call": 1, "fault_once": f"{tmp_path}/died"}
    with pytest.raises(EngineDead):
        run_batches(fake(**once), clips(3), BATCH, MemoryBudget())
    outcomes, _ = run_batches(fake(**once), clips(3), BATCH, MemoryBudget())
    assert not failures(outcomes)


def test_an_unknown_language_is_refused_without_a_call() -> None:
    engine = fake(languages=["en", "de"])
    chunks = [clip(1, 0, "en-GB"), clip(1, 1, "fr"), clip(1, 2, None), clip(1, 3, "DE")]
    outcomes, stats = run_batches(engine, chunks, BATCH, MemoryBudget())
    assert {index: failure.code for index, failure in failures(outcomes).items()} == {1: "language_unsupported"}
    assert "cannot transcribe 'fr' (it knows de, en)" in failures(outcomes)[1].message
    assert "; whisper with a multilingual model or granite with " in failures(outcomes)[1].message
    assert [outcome.language for outcome in outcomes if isinstance(outcome, Hypothesis)] == ["en", None, "de"]
    assert (stats.audio_s, stats.batches) == (3, 1)
    run_batches(engine, chunks[1:2], BATCH, MemoryBudget())
    assert engine.calls == 1


def test_a_refusal_names_an_engine_that_does_all_that_is_asked() -> None:
    chunk = replace(clip(1, 0, "fr"), keywords=("Lyon",))
    (refused,), _ = run_batches(fake(languages=["en"]), [chunk], BATCH, MemoryBudget(), asked=Wish("translate", None))
    assert isinstance(refused, Failure)
    assert refused.code == "task_unsupported"
    assert refused.message.endswith(
        "; whisper with a multilingual model other than turbo or granite with granite-speech-4.1-2b can."
    )


def test_keywords_that_an_engine_cannot_take_leave_a_warning() -> None:
    chunks = [clip(1), replace(clip(1), keywords=("Dashwood",))]
    outcomes, _ = run_batches(fake(), chunks, BATCH, MemoryBudget())
    assert [outcome.warnings for outcome in outcomes if isinstance(outcome, Hypothesis)] == [(), ("keywords_ignored",)]
    able = fake()
    able.spec = replace(able.spec, features=frozenset({"keywords"}))
    outcomes, _ = run_batches(able, chunks, BATCH, MemoryBudget())
    assert [outcome.warnings for outcome in outcomes if isinstance(outcome, Hypothesis)] == [(), ()]


class Hasty(Fake):
    """Keeps its first hypothesis of chunks of a whole number of seconds."""

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        found = zip(chunks, super().transcribe(chunks), strict=True)
        return [
            replace(heard, stop_reason="draft", n_tokens=10, n_foretold=7) if chunk.audio_s % 1 == 0 else heard
            for chunk, heard in found
        ]


def test_audio_that_kept_a_draft_is_summed_once() -> None:
    chunks = [clip(2), clip(1.5, 1), clip(3, 2), clip(4, 3, peak=CULPRIT_PEAK), clip(5, 4, "fr")]
    engine = Hasty(EngineConfig(name="fake", options={"fail_on_peak": CULPRIT_PEAK, "languages": ["en"]}))
    outcomes, stats = run_batches(engine, chunks, BATCH, MemoryBudget())
    assert [*failures(outcomes)] == [3, 4]
    assert (stats.draft_s, stats.audio_s) == (5, 10.5)
    assert (stats.drafted_tokens, stats.foretold_tokens) == (20, 14)
    half = stats.share(0.5)
    assert (half.draft_s, half.drafted_tokens, half.foretold_tokens) == (2.5, 10, 7)
    assert run_batches(fake(), chunks[:3], BATCH, MemoryBudget())[1].draft_s == 0


class Forgetful(Fake):
    """Loses the last hypothesis of every batch of several."""

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        found = super().transcribe(chunks)
        return found[:-1] if len(chunks) > 1 else found


class Broken(Fake):
    """Fails with an error as long as models make them."""

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        raise KeyError("shape\n" * 1000)


def test_a_wrong_number_of_hypotheses_is_never_matched_by_luck() -> None:
    chunks = clips(5)
    outcomes, _ = run_batches(Forgetful(EngineConfig(name="fake")), chunks, BATCH, MemoryBudget())
    assert [outcome.text for outcome in outcomes if isinstance(outcome, Hypothesis)] == texts(fake(), chunks)


def test_messages_are_one_line_and_bounded() -> None:
    outcomes, _ = run_batches(Broken(EngineConfig(name="fake")), clips(1), BATCH, MemoryBudget())
    failure = failures(outcomes)[0]
    assert (failure.stage, failure.code) == ("transcribe", "engine_error")
    assert failure.message.startswith("The engine failed: KeyError")
    assert len(failure.message) == 500
    assert "\n" not in failure.message


def test_the_seconds_of_calls_that_overlap_add_up_to_wall_time() -> None:
    engine, memory = fake(batch_overhead_s=0.1), MemoryBudget()
    start_s = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(lambda seed: run_batches(engine, [clip(1, seed)], BATCH, memory)[1], range(4)))
    wall_s = time.perf_counter() - start_s
    assert engine.busy_s == pytest.approx(0.4)
    assert engine.busy_s <= sum(stats.engine_s for stats in runs) <= wall_s


def test_a_lone_call_has_all_its_seconds() -> None:
    clock = SharedClock()
    mark = clock.enter()
    time.sleep(0.05)
    assert clock.leave(mark) == pytest.approx(0.05, abs=0.04)
    assert clock.leave(clock.enter()) < 0.01
