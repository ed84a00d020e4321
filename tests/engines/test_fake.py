"""The fake engine keeps the promises that other tests and the benchmarks build on."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.config import EngineConfig
from pipeline.engines.fake import Fake
from pipeline.errors import ConfigError, EngineError, EngineOutOfMemory
from pipeline.records import ChunkAudio


def fake(**options: object) -> Fake:
    return Fake(EngineConfig(name="fake", language="en", options=options))


def noise(seconds: float, seed: int = 0) -> ChunkAudio:
    return ChunkAudio(np.random.default_rng(seed).integers(-9_000, 9_000, int(seconds * 16_000), np.int16))


def test_the_same_samples_give_the_same_words_in_every_process() -> None:
    ramp = ChunkAudio(np.arange(-16_000, 16_000, dtype=np.int16))
    assert fake().transcribe([ramp])[0].text == "birch grove inlet larch"


def test_two_words_a_second_and_none_for_silence() -> None:
    speech = noise(1.0).samples
    heard = fake().transcribe([ChunkAudio(np.concatenate([speech, np.zeros(32_000, np.int16), speech]))])[0]
    words = heard.text.split()
    assert (len(words), heard.n_tokens, heard.language, heard.confidence) == (4, 4, "en", None)
    assert words[:2] == words[2:]


def test_people_take_turns_word_by_word() -> None:
    samples = np.concatenate([noise(1.0).samples, np.zeros(16_000, np.int16), noise(0.75, 1).samples])
    (heard,) = fake(speakers=3).transcribe([ChunkAudio(samples)])
    assert " ".join(segment.text for segment in heard.segments) == heard.text
    assert [(segment.start_s, segment.end_s, segment.speaker) for segment in heard.segments] == [
        (0.0, 0.5, "Speaker 1"),
        (0.5, 1.0, "Speaker 2"),
        (2.0, 2.5, "Speaker 3"),
        (2.5, 2.75, "Speaker 1"),
    ]


def test_device_time_follows_the_padded_length() -> None:
    chunks = [noise(1), noise(3, 1), noise(2, 2)]
    for padding, padded_seconds in (("none", 6), ("longest", 9), ("fixed", 90)):
        engine = fake(seconds_per_audio_s=0.001, batch_overhead_s=0.01, padding=padding)
        engine.transcribe(chunks)
        assert engine.busy_s == pytest.approx(0.01 + padded_seconds * 0.001)


def test_the_device_has_one_owner_and_the_host_does_not() -> None:
    engine = fake(batch_overhead_s=0.1, host_s=0.3)
    start_s = time.perf_counter()
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda seed: engine.transcribe([noise(1, seed)]), range(4)))
    wall_s = time.perf_counter() - start_s
    assert engine.busy_s == pytest.approx(0.4)
    assert 0.7 <= wall_s < 1.6  # 1.6 if preparation waited for the device


def test_faults_come_as_told() -> None:
    with pytest.raises(EngineOutOfMemory):
        fake(oom_above_s=5).transcribe([noise(3), noise(3, 1)])
    peak = int(np.abs(noise(1).samples).max())
    with pytest.raises(EngineError, match="peak"):
        fake(fail_on_peak=peak).transcribe([noise(1)])
    slow, seconds = fake(hang_on_call=2, hang_s=0.5), []
    for _ in range(3):
        start_s = time.perf_counter()
        slow.transcribe([noise(1)])
        seconds.append(time.perf_counter() - start_s)
    assert [took_s >= 0.5 for took_s in seconds] == [False, True, False]


def test_an_option_that_cannot_be_is_named() -> None:
    with pytest.raises(ConfigError, match=r"engine\.options\.host_s cannot be -1"):
        fake(host_s=-1)
