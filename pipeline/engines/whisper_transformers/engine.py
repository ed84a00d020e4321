"""The whisper-transformers engine: chunks in, hypotheses out. Describes the model and makes features; the recognizer decodes.

Imports transformers late: `describe` needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.config import EngineConfig
from pipeline.engines.audible import is_audible
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.cores import usable_cores
from pipeline.engines.languages import detection_choices
from pipeline.engines.model_files import find_model
from pipeline.engines.options import read_options
from pipeline.engines.torch_device import check_libraries, choose_device, choose_dtype, loading
from pipeline.engines.whisper.card import MAX_CHUNK_S, declare
from pipeline.engines.whisper.features import HOP_SAMPLES, log_mels
from pipeline.engines.whisper.options import DecodingOptions
from pipeline.engines.whisper.prompting import Vocabulary
from pipeline.engines.whisper.reading import Decoded, read_hypothesis
from pipeline.engines.whisper_transformers.checkpoint import TOKENIZER_FILE, Checkpoint, read_checkpoint
from pipeline.errors import ConfigError, EngineDead
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis

if TYPE_CHECKING:
    import torch

    from pipeline.engines.whisper_transformers.recognizer import Recognizer

# Float32, one core, chunks of middling length; 20 with full ones (docs/engines.md). Falls with the size of the weights.
_TINY_BYTES, _TINY_RTFX = 151e6, 13.0


class WhisperTransformersOptions(DecodingOptions):
    """`engine.options` of the whisper-transformers engine."""

    beam_size: int = Field(1, ge=1, le=16, description="1 is greedy; transformers' beam search counts as it likes")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the accelerator has it, float16 on older ones, float32 on a CPU"
    )


class WhisperTransformers:
    """Whisper on transformers. `transcribe` may be called from several threads: one makes features while another computes."""

    def __init__(self, config: EngineConfig) -> None:
        self.spec = self.describe(config)
        self._config = config
        self._options = read_options(WhisperTransformersOptions, config)
        self._language = primary_language(config.language) if config.language else None
        self._recognizer: Recognizer | None = None
        self._vocabulary: Vocabulary | None = None
        self._extractor: Any = None

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Declare from the model's JSON files. Raises ConfigError for what this model cannot do."""
        options = read_options(WhisperTransformersOptions, config)
        card = read_checkpoint(find_model(config.model, config.storage_options)).card
        return declare(config, card, word_times=options.word_times, rtfx=_TINY_RTFX * _TINY_BYTES / card.weights_bytes)

    def load(self) -> None:
        """Fetch, verify and load the weights, and warm up. Raises ConfigError, EngineDead."""
        needed = ("torch", "safetensors", "tokenizers", "transformers")
        check_libraries("whisper-transformers", needed, "transformers")
        from faster_whisper.feature_extractor import FeatureExtractor

        from pipeline.engines.granite_nar.device import device_errors

        files = find_model(self._config.model, self._config.storage_options)
        checkpoint = read_checkpoint(files)
        folder = files.fetch(checkpoint.files)
        device = choose_device(self._config.device)
        self._extractor = FeatureExtractor(feature_size=checkpoint.sizes["num_mel_bins"])
        self._vocabulary = self._read_vocabulary(folder, checkpoint)
        with loading(self.spec.model, device, self.close):
            with device_errors():
                self._recognizer = self._make_recognizer(folder, checkpoint, self._vocabulary, device)
            self._hear([ChunkAudio(np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE_HZ, np.int16))])

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        """One hypothesis per chunk. Raises ValueError for a chunk over 30 s, EngineOutOfMemory, EngineDead, EngineError."""
        longest_s = max((chunk.audio_s for chunk in chunks), default=0.0)
        if longest_s > MAX_CHUNK_S:
            raise ValueError(f"a chunk of {longest_s:.2f} s is longer than {MAX_CHUNK_S} s")
        found = [Hypothesis("", chunk.language or self._language, stop_reason="silence") for chunk in chunks]
        rows = [row for row, chunk in enumerate(chunks) if is_audible(chunk.samples)]
        for row, hypothesis in zip(rows, self._hear([chunks[row] for row in rows]), strict=True):
            found[row] = hypothesis
        return found

    def close(self) -> None:
        """Give the weights' memory back."""
        if self._recognizer is not None:
            self._recognizer.close()
        self._recognizer = self._vocabulary = None

    def _hear(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        from pipeline.engines.whisper_transformers.recognizer import Clip

        if not chunks:
            return []
        if self._recognizer is None or self._vocabulary is None:
            raise EngineDead("The engine is not loaded.")
        features = np.stack([log_mels(self._extractor, chunk.samples) for chunk in chunks])
        clips = [
            Clip(chunk.language or self._language, chunk.keywords, len(chunk.samples) // HOP_SAMPLES, chunk.task)
            for chunk in chunks
        ]
        decoded: list[Decoded] = self._recognizer.decode(features, clips)
        return [
            read_hypothesis(one, self._vocabulary.of(one.language), chunk.audio_s, self._options)
            for one, chunk in zip(decoded, chunks, strict=True)
        ]

    def _read_vocabulary(self, folder: Path, checkpoint: Checkpoint) -> Vocabulary:
        try:
            return Vocabulary(
                folder / TOKENIZER_FILE,
                multilingual=checkpoint.card.multilingual,
                task=self._config.task,
                timestamps=self._options.timestamps,
                prompt=self._options.prompt,
            )
        except Exception as error:  # noqa: BLE001 - the library raises plain Exceptions
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"The {TOKENIZER_FILE} of {checkpoint.model} cannot be read ({reason}); download it again."
            ) from None

    def _make_recognizer(
        self, folder: Path, checkpoint: Checkpoint, vocabulary: Vocabulary, device: torch.device
    ) -> Recognizer:
        from pipeline.engines.whisper_transformers.recognizer import Recognizer

        options = self._options
        return Recognizer(
            folder,
            checkpoint,
            vocabulary,
            device=device,
            dtype=choose_dtype(options.dtype, device),
            threads=self._config.threads or usable_cores(),
            choices=detection_choices(self._config, checkpoint.card.languages),
            beam_size=options.beam_size,
            max_new_tokens=options.max_new_tokens,
            timestamps=options.timestamps,
            word_times=options.word_times,
        )
