"""Whisper on CTranslate2, batched across recordings on an accelerator, one chunk per core on a CPU.

Chunks in, hypotheses out; each chunk is padded to 30 s with silence, as the model was trained, and decoded on its own,
so that its text does not depend on its neighbours. Knows nothing of files: `weights` finds the model.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.config import EngineConfig, Section
from pipeline.engines.audible import is_audible
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.cores import usable_cores
from pipeline.engines.options import read_options
from pipeline.engines.whisper.reading import Decoded, read_hypothesis
from pipeline.engines.whisper.weights import describe_model, fetch_model
from pipeline.errors import ConfigError, EngineDead, EngineOutOfMemory
from pipeline.records import ChunkAudio, Hypothesis, Samples

MAX_CHUNK_S = 30.0
_FRAMES = 3000
_CONTEXT_TOKENS = 448  # of the decoder: prompt and text
_PROMPT_TOKENS = _CONTEXT_TOKENS // 2 - 5  # of keywords: half the context less start, language, task, no times, mark
# One core and chunks of middling length; 45 with full ones (docs/engines.md). Falls with the size of the weights.
_TINY_BYTES, _TINY_RTFX = 75.5e6, 30.0


class WhisperOptions(Section):
    """`engine.options` of the whisper engine."""

    beam_size: int = Field(5, ge=1, le=16, description="1 is greedy: a tenth less time, two points more WER (tiny.en)")
    max_new_tokens: int = Field(224, ge=1, le=224, description="longest text of a chunk in tokens; stops loops")
    timestamps: bool = Field(
        False, description="segment times inside the chunk from the model; costs a little accuracy"
    )
    word_times: bool = Field(False, description="word times from the model's attention; one more pass over the text")
    prompt: str = Field("", description="text that sets style or vocabulary, put before the row's keywords")
    no_speech_threshold: float = Field(
        0.6, ge=0, le=1, description="a chunk is silence where the model's doubt is above"
    )
    log_prob_threshold: float = Field(-1.0, le=0, description="… and its mean log probability below")
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
        self._tokenizer: Any = None
        self._multilingual = False
        self._suppressed: list[int] = []

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Declare from the model's small files. Raises ConfigError for what this model cannot do."""
        options = read_options(WhisperOptions, config)
        card = describe_model(config.model, config.storage_options)
        language = primary_language(config.language) if config.language else None
        if config.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"The whisper engine has no device {config.device!r}; engine.device can be auto, cpu or cuda."
            )
        if language and language not in card.languages:
            advice = f"one of {len(card.languages)} others" if card.multilingual else "en, or take a multilingual model"
            raise ConfigError(
                f"The model {config.model} does not know {config.language!r}; engine.language can be {advice}."
            )
        if config.task == "translate" and not card.multilingual:
            raise ConfigError(
                f"The model {config.model} cannot translate; take a multilingual one or engine.task=transcribe."
            )
        if options.word_times and not card.can_align:
            raise ConfigError(f"The model {config.model} gives no word times; set engine.options.word_times=false.")
        features = {"keywords", "confidence"}
        features |= {"word_times"} if card.can_align else set()
        features |= {"language_detection"} if card.multilingual else set()
        return EngineSpec(
            name="whisper",
            model=config.model,
            revision=config.revision or card.revision,
            languages=card.languages,
            tasks=frozenset({"transcribe", "translate"} if card.multilingual else {"transcribe"}),
            features=frozenset(features),
            max_chunk_s=MAX_CHUNK_S,
            padding="fixed",
            rtfx_per_worker=_TINY_RTFX * _TINY_BYTES / card.weights_bytes,
            licence=card.licence,
        )

    def load(self) -> None:
        """Fetch, verify and load the weights. Raises ConfigError."""
        import ctranslate2
        import tokenizers
        from faster_whisper.feature_extractor import FeatureExtractor
        from faster_whisper.transcribe import get_suppressed_tokens

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
            self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # noqa: BLE001 - ctranslate2 and tokenizers raise bare Exceptions for broken files
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"The model {self.spec.model} does not load on {device} as {kind} ({reason}); "
                "check its files, engine.device and engine.options.compute_type."
            ) from None
        self._multilingual = self._model.is_multilingual
        self._extractor = FeatureExtractor(feature_size=self._model.n_mels)
        self._suppressed = list(get_suppressed_tokens(self._tokens("en"), [-1]))

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
        features = np.stack([self._features(chunk.samples) for chunk in voiced])
        step = self._rows_at_once or len(voiced)
        starts = range(0, len(voiced), step)
        with self._device, _device_errors():
            parts = self._workers.map(lambda at: self._decode(voiced[at : at + step], features[at : at + step]), starts)
            decoded = [one for part in parts for one in part]
        for row, chunk, heard in zip(rows, voiced, decoded, strict=True):
            found[row] = self._read(heard, chunk)
        return found

    def close(self) -> None:
        """Give the weights' memory back."""
        with self._device:
            self._workers.shutdown()
            if self._model is not None:
                self._model.unload_model()
            self._model = None

    def _features(self, samples: Samples) -> npt.NDArray[np.float32]:
        """Log-mel [n_mels, 3000] of the chunk and silence up to 30 s.

        The padding is what the model was trained on; zeros in its place, as faster-whisper pads, cost accuracy
        (docs/engines.md). Past the last window that touches audio every frame is the same, so it is computed once.
        """
        # 400: the analysis window; 160: one hop more, so that the last frame sees padding alone.
        frames = self._extractor(samples.astype(np.float32) / 32768, padding=400 + 160)[:, :_FRAMES]
        return np.pad(frames, ((0, 0), (0, _FRAMES - frames.shape[1])), mode="edge").astype(np.float32)

    def _decode(self, chunks: Sequence[ChunkAudio], features: npt.NDArray[np.float32]) -> list[Decoded]:
        import ctranslate2

        encoded = self._model.encode(ctranslate2.StorageView.from_array(features))
        languages = self._languages(chunks, encoded)
        prompts = [self._prompt(chunk, language) for chunk, language in zip(chunks, languages, strict=True)]
        found: dict[int, Decoded] = {}
        # ctranslate2 wants the start token at the same position in the whole batch.
        for rows in _groups([len(prompt) for prompt in prompts]):
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
        return [language or best[0][0][2:-2] for language, best in zip(named, detected, strict=True)]

    def _prompt(self, chunk: ChunkAudio, language: str) -> list[int]:
        tokens = self._tokens(language)
        start = [*tokens.sot_sequence, *([] if self._options.timestamps else [tokens.no_timestamps])]
        context = " ".join(filter(None, [self._options.prompt.strip(), ", ".join(chunk.keywords)]))
        return [tokens.sot_prev, *tokens.encode(" " + context)[:_PROMPT_TOKENS], *start] if context else start

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
        for rows in _groups([one.language for one in decoded]):
            tokens = self._tokens(decoded[rows[0]].language)
            texts = [[token for token in decoded[row].tokens if token < tokens.eot] for row in rows]
            frames = [len(chunks[row].samples) // 160 for row in rows]
            results = self._model.align(_take(encoded, rows), tokens.sot_sequence, texts, frames)
            for row, result in zip(rows, results, strict=True):
                aligned[row] = replace(decoded[row], alignment=result)
        return aligned

    def _read(self, decoded: Decoded, chunk: ChunkAudio) -> Hypothesis:
        options = self._options
        if decoded.no_speech_prob > options.no_speech_threshold and decoded.log_prob < options.log_prob_threshold:
            return Hypothesis("", decoded.language, stop_reason="silence")
        return read_hypothesis(decoded, self._tokens(decoded.language), chunk.audio_s)

    def _tokens(self, language: str) -> Any:
        """The tokenizer as faster-whisper wraps it, for one language."""
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._tokenizer, self._multilingual, self._config.task, language)


def _groups(keys: Sequence[Hashable]) -> list[list[int]]:
    """Positions with equal keys, together."""
    found: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        found[key].append(row)
    return list(found.values())


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
        if "out of memory" in str(error):
            raise EngineOutOfMemory() from None
        if str(error).startswith(("CUDA", "cuBLAS", "cuDNN")):
            raise EngineDead(f"The accelerator is gone: {error}") from None
        raise
