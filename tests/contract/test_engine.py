"""The laws of `pipeline.engines.base`, for every engine that can run here (tests/engines_under_contract.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from engines_under_contract import CONFIGS, NEEDS, RANDOM_MODELS

from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.base import ENGINES, Engine, create_engine, describe_engine
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.errors import ConfigError
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Failure, Hypothesis, Word

CONFIDENCE_TOLERANCE = 1e-4
HEAVY = (
    "torch",
    "transformers",
    "ctranslate2",
    "faster_whisper",
    "onnxruntime",
    "ray",
    "tokenizers",
    "safetensors",
    "vllm",
)


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    found = CONFIGS[request.param]
    if found.name in NEEDS:
        pytest.importorskip(
            NEEDS[found.name], reason=f"{NEEDS[found.name]} is not installed, so the engine cannot run here"
        )
    if found.name not in RANDOM_MODELS:
        return found
    folder = tmp_path_factory.mktemp(found.name)
    RANDOM_MODELS[found.name](folder)
    return found.model_copy(update={"model": str(folder)})


@pytest.fixture(scope="module")
def engine(config: EngineConfig) -> Iterator[Engine]:
    try:
        made = create_engine(config)
    except ConfigError as error:
        pytest.skip(str(error))
    made.load()
    yield made
    made.close()


@pytest.fixture(scope="module")
def speech(config: EngineConfig, request: pytest.FixtureRequest) -> list[ChunkAudio]:
    """Clips of different lengths: recorded speech, or noise for engines that hear words in anything."""
    if config.name in ("fake", *RANDOM_MODELS):
        noise = np.random.default_rng(0)
        return [ChunkAudio(noise.integers(-9999, 9999, n, np.int16)) for n in (16_000, 40_000, 8_000, 99_999)]
    clips: Path = request.getfixturevalue("shared_data") / "a" / "pocketsphinx-librivox"
    chunks = []
    for clip in sorted(clips.glob("*.wav"))[1:4]:
        samples, rate_hz = soundfile.read(clip, dtype="int16")
        assert rate_hz == SAMPLE_RATE_HZ
        chunks.append(ChunkAudio(samples))
    assert len(chunks) == 3
    return chunks


@pytest.fixture(scope="module")
def heard(engine: Engine, speech: list[ChunkAudio]) -> list[Hypothesis]:
    """Every clip on its own: what all other ways must give as well."""
    return [engine.transcribe([chunk])[0] for chunk in speech]


def same(found: list[Hypothesis], wanted: list[Hypothesis]) -> bool:
    """Equal, but for the last digits of confidences: a product over more rows may add in another order."""
    assert [_confidences(one) for one in found] == [
        pytest.approx(_confidences(one), rel=CONFIDENCE_TOLERANCE, nan_ok=True) for one in wanted
    ]
    return [_without_confidences(one) for one in found] == [_without_confidences(one) for one in wanted]


def _confidences(hypothesis: Hypothesis) -> list[float]:
    words = [word for part in (hypothesis, *hypothesis.segments) for word in part.words]
    found = [hypothesis.confidence, *(one.confidence for one in (*hypothesis.segments, *words))]
    return [np.nan if one is None else one for one in found]


def _without_confidences(hypothesis: Hypothesis) -> Hypothesis:
    segments = tuple(
        replace(segment, confidence=None, words=_without_their_confidences(segment.words))
        for segment in hypothesis.segments
    )
    words = _without_their_confidences(hypothesis.words)
    return replace(hypothesis, confidence=None, segments=segments, words=words)


def _without_their_confidences(words: tuple[Word, ...]) -> tuple[Word, ...]:
    return tuple(replace(word, confidence=None) for word in words)


def test_every_engine_is_under_contract() -> None:
    assert set(CONFIGS) == set(ENGINES)


def test_speech_gives_text_and_times_lie_within_the_chunk(speech: list[ChunkAudio], heard: list[Hypothesis]) -> None:
    assert len({hypothesis.text for hypothesis in heard}) == len(heard)
    for chunk, hypothesis in zip(speech, heard, strict=True):
        assert hypothesis.text.strip() == hypothesis.text != ""
        assert hypothesis.confidence is None or 0 <= hypothesis.confidence <= 1
        times = [time for word in hypothesis.words for time in (word.start_s, word.end_s) if time is not None]
        assert times == sorted(times)
        assert all(0 <= time <= chunk.audio_s for time in times)


def test_neighbours_order_and_packing_change_nothing(
    engine: Engine, speech: list[ChunkAudio], heard: list[Hypothesis]
) -> None:
    order = np.random.default_rng(7).permutation(len(speech))
    together = engine.transcribe([speech[index] for index in order])
    assert same(together, [heard[index] for index in order])
    with_silence = engine.transcribe([speech[0], ChunkAudio(np.zeros(16_000, np.int16)), speech[0]])
    assert same(with_silence[::2], [heard[0], heard[0]])


def test_the_wishes_of_a_row_stay_its_own(engine: Engine, speech: list[ChunkAudio], heard: list[Hypothesis]) -> None:
    wishful = [replace(speech[0], language="en", keywords=("Margaret Hale", "Dashwood")), *speech[1:]]
    alone = engine.transcribe(wishful[:1])
    together = engine.transcribe(wishful[:2])
    assert same(together, [*alone, heard[1]])


def test_tasks_may_be_mixed_in_a_batch(engine: Engine, speech: list[ChunkAudio]) -> None:
    """Each chunk gets what its own row asks, in any company. Engines that cannot are never asked: the runner refuses."""
    into = sorted(set(engine.spec.row_tasks) - {"transcribe"})
    if not into:
        outcomes, _ = run_batches(
            engine, [replace(speech[0], task="translate"), speech[1]], BatchConfig(), MemoryBudget()
        )
        assert isinstance(outcomes[0], Failure)
        assert outcomes[0].code == "task_unsupported"
        assert isinstance(outcomes[1], Hypothesis)
        return
    sources = [engine.spec.row_tasks[target] for target in into]
    rows = [replace(speech[0], language="de", task="transcribe")]
    for target, known in zip(into, sources, strict=True):
        language = next(name for name in ("de", "en", "fr") if known is None or name in known)
        rows.append(replace(speech[0], language=language, task="translate", target_language=target))
    alone = [engine.transcribe([row])[0] for row in rows]
    assert same(engine.transcribe([*rows, *rows[::-1]]), [*alone, *alone[::-1]])
    assert len({one.text for one in alone}) > 1  # the same audio: what differs is what was asked


def test_nothing_to_hear_gives_nothing(engine: Engine) -> None:
    quiet = np.random.default_rng(1).integers(-3, 4, 32_000, np.int16)
    silences = [np.zeros(0, np.int16), np.zeros(1, np.int16), np.zeros(480_000, np.int16), quiet]
    assert engine.transcribe([]) == []
    assert [found.text for found in engine.transcribe([ChunkAudio(samples) for samples in silences])] == [""] * 4


def test_the_longest_chunk_is_taken_and_a_longer_one_refused(engine: Engine, speech: list[ChunkAudio]) -> None:
    longest = int(engine.spec.max_chunk_s * SAMPLE_RATE_HZ)
    samples = np.resize(speech[0].samples, longest + 1)
    assert engine.transcribe([ChunkAudio(samples[:longest])])[0].text
    with pytest.raises(ValueError, match="longer than"):
        engine.transcribe([speech[0], ChunkAudio(samples)])


def test_samples_are_read_never_written(engine: Engine, speech: list[ChunkAudio], heard: list[Hypothesis]) -> None:
    frozen = speech[2].samples.copy()
    frozen.setflags(write=False)  # as they come out of Arrow
    assert same(engine.transcribe([ChunkAudio(frozen)]), heard[2:3])


def test_two_threads_hear_what_one_hears(engine: Engine, speech: list[ChunkAudio], heard: list[Hypothesis]) -> None:
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(engine.transcribe, [speech[:2], speech[1:2], speech[2:]]))
    assert all(map(same, found, [heard[:2], heard[1:2], heard[2:]]))


def test_it_loads_again_after_close(config: EngineConfig, speech: list[ChunkAudio], heard: list[Hypothesis]) -> None:
    again = create_engine(config)
    again.load()
    again.close()
    again.load()
    assert same(again.transcribe(speech[1:2]), heard[1:2])
    again.close()


def test_description_holds_together(engine: Engine, config: EngineConfig) -> None:
    spec = describe_engine(config)
    assert spec == engine.spec
    assert (spec.name, spec.model) == (config.name, config.model)
    assert config.task in spec.tasks
    assert spec.revision
    assert spec.rtfx_per_worker > 0
    assert describe_engine(config.model_copy(update={"revision": "pinned"})).revision == "pinned"
    with pytest.raises(ConfigError, match=f"The {config.name} engine has no option 'nonsense'"):
        describe_engine(config.model_copy(update={"options": {"nonsense": 1}}))


def test_description_imports_nothing_heavy(engine: Engine, config: EngineConfig) -> None:
    code = (
        "import sys; from pipeline.config import EngineConfig; from pipeline.engines.base import describe_engine\n"
        f"describe_engine(EngineConfig.model_validate_json({config.model_dump_json()!r}))\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
