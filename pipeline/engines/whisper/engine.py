"""Whisper on CTranslate2, batched across recordings on an accelerator, one chunk per core on a CPU.

Chunks in, hypotheses out; each chunk is padded to 30 s with silence, as the model was trained, and decoded on its own,
so that its text does not depend on its neighbours. Knows nothing of files: `weights` finds the model. What does not depend on
the weights' format (card, features, options, prompting, reading) is shared with `whisper-transformers`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.config import EngineConfig
from pipeline.engines.audible import is_audible
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.cores import usable_cores
from pipeline.engines.languages import detection_choices
from pipeline.engines.options import read_options
from pipeline.engines.whisper.card import MAX_CHUNK_S, declare
from pipeline.engines.whisper.features import HOP_SAMPLES, log_mels
from pipeline.engines.whisper.options import DecodingOptions
from pipeline.engines.whisper.prompting import Vocabulary, group_equal
from pipeline.engines.whisper.reading import Decoded, read_hypothesis
from pipeline.engines.whisper.weights import describe_model, fetch_model
from pipeline.errors import ConfigError, EngineDead, EngineOutOfMemory
from pipeline.records import ChunkAudio, Hypothesis

# One core and chunks of middling length; 45 with full ones (docs/engines.md). Falls with the size of the weights.
_NO_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc")  # as CUDA, MKL and the C++ library say it
_TINY_BYTES, _TINY_RTFX = 75.5e6, 30.0


class WhisperOptions(DecodingOptions):
    """`engine.options` of the whisper engine."""

    beam_size: int = Field(5, ge=1, le=16, description="1 is greedy: a tenth less time, two points more WER (tiny.en)")
    compute_type: Literal["auto", "int8", "int8_float32", "int8_float16", "float16", "bfloat16", "float32"] = Field(
        "auto", description="number format of the weights; auto: int8 on the CPU, float16 on CUDA"
    )


class Whisper:
    """The whisper engine. Two threads may call `transcribe`: one prepares features while the other computes."""

    def __init__(self, config: EngineConfig) -> None:
        self.spec = self.describe(config)
        self._config = config
        self._options = read_options(WhisperOptions, config)
        self._language = primary_language(config.language) if config.language else None
        self._device = threading.Lock()
        self._workers = ThreadPoolExecutor(1)
        self._rows_at_once: int | None = None  # None: the whole batch
        self._model: Any = None
        self._extractor: Any = None
        self._vocabulary: Any = None
        self._multilingual = False
        self._suppressed: list[int] = []

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Declare from the model's small files. Raises ConfigError for what this model cannot do."""
        options = read_options(WhisperOptions, config)
        card = describe_model(config.model, config.storage_options)
        rtfx = _TINY_RTFX * _TINY_BYTES / card.weights_bytes
        return declare(config, card, word_times=options.word_times, rtfx=rtfx)

    def load(self) -> None:
        """Fetch, verify and load the weights. Raises ConfigError."""
        import ctranslate2
        from faster_whisper.feature_extractor import FeatureExtractor

        folder = fetch_model(self.spec.model, self._config.storage_options)
        device = self._config.device
        if device == "auto":
            device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        kind = self._options.compute_type
        if kind == "auto":
            kind = "int8" if device == "cpu" else "float16"
        # A core with a chunk to itself needs a fifth less time than cores that share a batch (docs/engines.md): what
        # one chunk touches fits in the cache. An accelerator wants the batch.
        cores = (self._config.threads or usable_cores()) if device == "cpu" else 1
        self._rows_at_once = 1 if device == "cpu" else None
        self._workers = ThreadPoolExecutor(cores)
        try:
            self._model = ctranslate2.models.Whisper(
                str(folder), device, compute_type=kind, inter_threads=cores, intra_threads=1
            )
            self._multilingual = self._model.is_multilingual
            self._vocabulary = Vocabulary(
                folder / "tokenizer.json",
                multilingual=self._multilingual,
                task=self._config.task,
                timestamps=self._options.timestamps,
                prompt=self._options.prompt,
            )
        except Exception as error:  # noqa: BLE001 - ctranslate2 and tokenizers raise bare Exceptions for broken files
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"The model {self.spec.model} does not load on {device} as {kind} ({reason}); "
                "check its files, engine.device and engine.options.compute_type."
            ) from None
        self._extractor = FeatureExtractor(feature_size=self._model.n_mels)
        self._suppressed = self._vocabulary.suppressed()

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        """One hypothesis per chunk. Raises ValueError for a chunk over 30 s, EngineOutOfMemory, EngineDead."""
        longest_s = max((chunk.audio_s for chunk in chunks), default=0.0)
        if longest_s > MAX_CHUNK_S:
            raise ValueError(f"a chunk of {longest_s:.2f} s is longer than {MAX_CHUNK_S} s")
        found = [Hypothesis("", chunk.language or self._language, stop_reason="silence") for chunk in chunks]
        rows = [row for row, chunk in enumerate(chunks) if is_audible(chunk.samples)]
        if not rows:
            return found
        voiced = [chunks[row] for row in rows]
        features = np.stack([log_mels(self._extractor, chunk.samples) for chunk in voiced])
        step = self._rows_at_once or len(voiced)
        starts = range(0, len(voiced), step)
        with self._device, _device_errors():
            parts = self._workers.map(lambda at: self._decode(voiced[at : at + step], features[at : at + step]), starts)
            decoded = [one for part in parts for one in part]
        for row, chunk, heard in zip(rows, voiced, decoded, strict=True):
            found[row] = read_hypothesis(heard, self._vocabulary.of(heard.language), chunk.audio_s, self._options)
        return found

    def close(self) -> None:
        """Give the weights' memory back."""
        with self._device:
            self._workers.shutdown()
            if self._model is not None:
                self._model.unload_model()
            self._model = None

    def _decode(self, chunks: Sequence[ChunkAudio], features: npt.NDArray[np.float32]) -> list[Decoded]:
        import ctranslate2

        encoded = self._model.encode(ctranslate2.StorageView.from_array(features))
        languages = self._languages(chunks, encoded)
        prompts = [
            self._vocabulary.prompt(language, chunk.keywords, chunk.task)
            for chunk, language in zip(chunks, languages, strict=True)
        ]
        found: dict[int, Decoded] = {}
        # ctranslate2 wants the start token at the same position in the whole batch.
        for rows in group_equal([len(prompt) for prompt in prompts]):
            results = self._generate(_take(encoded, rows), [prompts[row] for row in rows])
            for row, result in zip(rows, results, strict=True):
                found[row] = self._decoded(result, languages[row])
        decoded = [found[row] for row in range(len(chunks))]
        return self._align(chunks, encoded, decoded) if self._options.word_times else decoded

    def _languages(self, chunks: Sequence[ChunkAudio], encoded: Any) -> list[str]:
        if not self._multilingual:
            return ["en"] * len(chunks)
        named = [chunk.language or self._language for chunk in chunks]
        if all(named):
            return [language for language in named if language]
        detected = self._model.detect_language(encoded)
        choices = detection_choices(self._config, self.spec.languages or ())
        ranked = ([token[2:-2] for token, _ in each] for each in detected)  # "<|en|>", the most probable first
        return [
            language or next(code for code in codes if code in choices)
            for language, codes in zip(named, ranked, strict=True)
        ]

    def _generate(self, encoded: Any, prompts: list[list[int]]) -> Any:
        new, prompt = self._options.max_new_tokens, len(prompts[0])
        return self._model.generate(
            encoded,
            prompts,
            beam_size=self._options.beam_size,
            # ctranslate2 stops at half of max_length, or when prompt and text reach it (the prompt's last token is
            # counted as text): this makes it `new` either way.
            max_length=max(2 * new, prompt - 1 + new),
            suppress_tokens=self._suppressed,
            return_scores=True,
            return_no_speech_prob=True,
        )

    def _decoded(self, result: Any, language: str) -> Decoded:
        tokens = tuple(result.sequences_ids[0])
        return Decoded(
            tokens=tokens,
            # The score is the sum over the tokens and the end, divided by the tokens alone.
            log_prob=result.scores[0] * len(tokens) / (len(tokens) + 1),
            no_speech_prob=result.no_speech_prob,
            cut_off=len(tokens) >= self._options.max_new_tokens,
            language=language,
        )

    def _align(self, chunks: Sequence[ChunkAudio], encoded: Any, decoded: list[Decoded]) -> list[Decoded]:
        aligned = list(decoded)
        for rows in group_equal([(one.language, chunk.task) for one, chunk in zip(decoded, chunks, strict=True)]):
            tokens = self._vocabulary.of(decoded[rows[0]].language, chunks[rows[0]].task)
            texts = [[token for token in decoded[row].tokens if token < tokens.eot] for row in rows]
            frames = [len(chunks[row].samples) // HOP_SAMPLES for row in rows]
            results = self._model.align(_take(encoded, rows), tokens.sot_sequence, texts, frames)
            for row, result in zip(rows, results, strict=True):
                aligned[row] = replace(decoded[row], alignment=result)
        return aligned


def _take(encoded: Any, rows: Sequence[int]) -> Any:
    """Some rows of the encoder's output; a copy through the host where not all are wanted, which is rare."""
    import ctranslate2

    if len(rows) == encoded.shape[0]:
        return encoded
    host = encoded.to_device(ctranslate2.Device.cpu).to(ctranslate2.DataType.float32)
    part = ctranslate2.StorageView.from_array(np.ascontiguousarray(np.asarray(host)[list(rows)]))
    return part.to(encoded.dtype).to_device(getattr(ctranslate2.Device, encoded.device))


@contextmanager
def _device_errors() -> Iterator[None]:
    """Sort the backend's RuntimeErrors: memory, which a smaller batch mends, and a device that will not come back."""
    try:
        yield
    except MemoryError:
        raise EngineOutOfMemory() from None
    except RuntimeError as error:
        if any(words in str(error) for words in _NO_MEMORY):
            raise EngineOutOfMemory() from None
        if str(error).startswith(("CUDA", "cuBLAS", "cuDNN")):
            raise EngineDead(f"The accelerator is gone: {error}") from None
        raise
