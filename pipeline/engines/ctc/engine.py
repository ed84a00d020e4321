"""The ctc engine: chunks in, hypotheses out, with any CTC checkpoint of transformers that `checkpoint` knows.

Greedy: the best label of every frame, collapsed. Imports transformers late: `describe` needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pipeline.config import EngineConfig, Section
from pipeline.engines.audible import is_audible
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.cores import usable_cores
from pipeline.engines.ctc.checkpoint import WEIGHTS_FILE, read_checkpoint
from pipeline.engines.model_files import find_model
from pipeline.engines.options import check_device, read_options
from pipeline.engines.torch_device import check_libraries, choose_device, choose_dtype, loading
from pipeline.errors import ConfigError, EngineDead
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis

if TYPE_CHECKING:
    from pipeline.engines.ctc.reading import LabelReader, Reading
    from pipeline.engines.ctc.recognizer import Recognizer

# granite-speech-5.0-470m-turboctc in bfloat16 on one H200, as published: for cost estimates. Others fall with their size
# and with their number of frames, a rough guess.
_PUBLISHED_RTFX, _PUBLISHED_BYTES, _PUBLISHED_FRAME_S = 12_946.0, 946e6, 0.08
_APPROXIMATE = "word_times_approximate"
_WARM_UP_S = (1.0, 3.0)


class CtcOptions(Section):
    """`engine.options` of the ctc engine."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the accelerator has it, float16 on older ones, float32 on a CPU"
    )
    attention: Literal["auto", "sdpa", "eager"] = Field(
        "auto", description="transformers' implementation of the attention; auto: sdpa where the model has it"
    )
    word_times: bool = Field(
        True,
        description="words with confidences and approximate times: where the model fired, not how long it was said",
    )
    max_chunk_s: float = Field(
        30.0, ge=1, le=300, description="longest chunk; memory of some models grows with its square"
    )
    languages: list[str] | None = Field(
        None, description="languages of a model whose files name none; wins over what they name"
    )


class Ctc:
    """Any CTC checkpoint. `transcribe` may be called from several threads."""

    def __init__(self, config: EngineConfig) -> None:
        self.spec = self.describe(config)
        self._config = config
        self._options = read_options(CtcOptions, config)
        self._language = primary_language(config.language) if config.language else None
        if self._language is None and self.spec.languages is not None and len(self.spec.languages) == 1:
            (self._language,) = self.spec.languages
        self._recognizer: Recognizer | None = None
        self._reader: LabelReader | None = None

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Declare from the model's JSON files and its model card. Raises ConfigError."""
        options = read_options(CtcOptions, config)
        check_device(config)
        files = find_model(config.model, config.storage_options)
        checkpoint = read_checkpoint(files)
        languages = frozenset(map(primary_language, options.languages or ())) or checkpoint.languages
        if not languages:
            raise ConfigError(
                f"The model {config.model} does not say which languages it knows; set engine.options.languages, as in [en]."
            )
        smaller = min(_PUBLISHED_BYTES / files.size_bytes(WEIGHTS_FILE), 1.0)
        return EngineSpec(
            name="ctc",
            model=config.model,
            revision=config.revision or files.revision(WEIGHTS_FILE),
            languages=languages,
            tasks=frozenset({"transcribe"}),
            features=frozenset({"confidence", "word_times"}),
            max_chunk_s=options.max_chunk_s,
            padding="longest" if checkpoint.is_masked else "none",
            rtfx_per_worker=_PUBLISHED_RTFX * smaller * min(checkpoint.frame_s / _PUBLISHED_FRAME_S, 1.0),
            licence=checkpoint.licence,
        )

    def load(self) -> None:
        """Fetch, verify and load the weights, and warm up. Raises ConfigError, EngineDead."""
        check_libraries("ctc", ("torch", "safetensors", "tokenizers", "transformers"), "granite")
        from pipeline.engines.ctc.reading import LabelReader
        from pipeline.engines.ctc.recognizer import Recognizer
        from pipeline.engines.granite_nar.device import device_errors

        files = find_model(self._config.model, self._config.storage_options)
        checkpoint = read_checkpoint(files)
        folder = files.fetch(checkpoint.files)
        device = choose_device(self._config.device)
        with loading(self.spec.model, device, self.close):
            with device_errors():
                self._recognizer = Recognizer(
                    folder,
                    checkpoint,
                    device=device,
                    dtype=choose_dtype(self._options.dtype, device),
                    attention=None if self._options.attention == "auto" else self._options.attention,
                    threads=self._config.threads or usable_cores(),
                )
            self._reader = LabelReader(
                folder,
                vocabulary=self._recognizer.vocabulary,
                blank=self._recognizer.blank,
                frame_s=checkpoint.frame_s,
            )
            self._warm_up()

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        """One hypothesis per chunk. Raises ValueError for one that is too long, EngineOutOfMemory, EngineDead, EngineError."""
        longest_s = max((chunk.audio_s for chunk in chunks), default=0.0)
        if longest_s > self.spec.max_chunk_s:
            raise ValueError(f"a chunk of {longest_s:.2f} s is longer than {self.spec.max_chunk_s} s")
        found = [Hypothesis("", chunk.language or self._language, stop_reason="silence") for chunk in chunks]
        rows = [row for row, chunk in enumerate(chunks) if is_audible(chunk.samples)]
        for row, reading in zip(rows, self._hear([chunks[row] for row in rows]) if rows else [], strict=True):
            found[row] = Hypothesis(
                reading.text,
                found[row].language,
                reading.confidence,
                n_tokens=reading.n_tokens,
                stop_reason="single_pass",
                words=reading.words,
                warnings=(_APPROXIMATE,) if reading.words else (),
            )
        return found

    def close(self) -> None:
        """Give the weights' memory back."""
        if self._recognizer is not None:
            self._recognizer.close()
        self._recognizer = self._reader = None

    def _hear(self, chunks: Sequence[ChunkAudio]) -> list[Reading]:
        if self._recognizer is None or self._reader is None:
            raise EngineDead("The engine is not loaded.")
        heard = self._recognizer.labels([chunk.samples for chunk in chunks])
        return [
            self._reader.read(labels, posteriors, chunk.audio_s, words=self._options.word_times)
            for (labels, posteriors), chunk in zip(heard, chunks, strict=True)
        ]

    def _warm_up(self) -> None:
        noise = np.random.default_rng(0)
        sizes = [int(min(length_s, self.spec.max_chunk_s) * SAMPLE_RATE_HZ) for length_s in _WARM_UP_S]
        self._hear([ChunkAudio(noise.integers(-3000, 3000, size, np.int16)) for size in sizes])
