"""The granite engine: chunks in, hypotheses out. Describes the model, words the prompts, and hands both to the recognizer.

Imports transformers late: `describe` needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from pipeline.config import EngineConfig
from pipeline.engines.audible import is_audible
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.cores import usable_cores
from pipeline.engines.granite.adapter import ADAPTER_WEIGHTS
from pipeline.engines.granite.asking import (
    MAX_CHUNK_S,
    AskingOptions,
    budget_of,
    instruct,
    languages_of,
    row_tasks,
    version_of,
)
from pipeline.engines.granite.checkpoint import DRAFT_HEAD, Checkpoint, read_checkpoint, revision_of
from pipeline.engines.granite.prompts import Version
from pipeline.engines.granite.speculation import Speculation
from pipeline.engines.model_files import find_model
from pipeline.engines.options import check_device, read_options
from pipeline.engines.torch_device import check_libraries, choose_device, choose_dtype, loading
from pipeline.errors import ConfigError, EngineDead
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis

if TYPE_CHECKING:
    from pipeline.engines.granite.recognizer import Answer, Question, Recognizer

_PUBLISHED_RTFX = (
    546.0  # of the published speculative code on one H200: for cost estimates; this engine is not measured there
)
_WARM_UP_S = (1.0, 3.0)
_VERSIONS: tuple[Version, ...] = ("3.3", "4.0", "4.1")


class GraniteOptions(AskingOptions):
    """`engine.options` of the granite engine."""

    max_positions: int = Field(
        65_536, ge=1024, description="positions that decode together (80 KiB each in bfloat16, with published models)"
    )
    speculate: bool = Field(
        False,
        description="let the encoder draft the text and the language model check the draft: same text, fewer passes",
    )
    draft_confidence: float = Field(
        0.5, ge=0, le=1, description="mean posterior of a draft's labels from which on it is tried"
    )
    keep_draft_token: float | None = Field(
        None,
        gt=0,
        le=1,
        description="a draft each of whose tokens has this probability is the text as it is, and flagged; null: none is",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the accelerator has it, float16 on older ones, float32 on a CPU"
    )


class Granite:
    """An autoregressive Granite Speech model. `transcribe` may be called from several threads."""

    def __init__(self, config: EngineConfig) -> None:
        self.spec = self.describe(config)
        self._config = config
        self._options = read_options(GraniteOptions, config)
        self._language = primary_language(config.language) if config.language else None
        if self._language is None and self.spec.languages is not None and len(self.spec.languages) == 1:
            (self._language,) = self.spec.languages
        self._version: Version = "4.1"
        self._recognizer: Recognizer | None = None

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Declare from the model's JSON files. Raises ConfigError."""
        options = read_options(GraniteOptions, config)
        check_device(config)
        files = find_model(config.model, config.storage_options)
        checkpoint = read_checkpoint(files)
        version = version_of(options, checkpoint, _VERSIONS)
        speculation = _speculation(options, version, checkpoint, config.task)
        adapter = (ADAPTER_WEIGHTS,) if checkpoint.adapter else ()
        weights = (*checkpoint.weights, *adapter, *_heads(speculation))
        return EngineSpec(
            name="granite",
            model=config.model,
            revision=config.revision or revision_of(files, weights),
            languages=languages_of(config, options, version),
            tasks=frozenset({"transcribe", "translate"}),
            features=frozenset({"confidence"} if version == "3.3" else {"keywords", "confidence"}),
            max_chunk_s=MAX_CHUNK_S,
            padding="none",
            rtfx_per_worker=_PUBLISHED_RTFX,
            licence="Apache-2.0",
            row_tasks=row_tasks(version),
        )

    def load(self) -> None:
        """Fetch, verify and load the weights, and warm up. Raises ConfigError, EngineDead."""
        check_libraries("granite", ("torch", "safetensors", "tokenizers", "transformers"), "granite")
        from pipeline.engines.granite.recognizer import Recognizer
        from pipeline.engines.granite_nar.device import device_errors

        files = find_model(self._config.model, self._config.storage_options)
        checkpoint = read_checkpoint(files)
        self._version = version_of(self._options, checkpoint, _VERSIONS)
        speculation = _speculation(self._options, self._version, checkpoint, self._config.task)
        folder = files.fetch((*checkpoint.files, *_heads(speculation)))
        device = choose_device(self._config.device)
        with loading(self.spec.model, device, self.close):
            with device_errors():
                self._recognizer = Recognizer(
                    folder,
                    checkpoint,
                    device=device,
                    dtype=choose_dtype(self._options.dtype, device),
                    threads=self._config.threads or usable_cores(),
                    most_positions=self._options.max_positions,
                    version=self._version,
                    speculation=speculation,
                )
            self._warm_up()

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        """One hypothesis per chunk. Raises ValueError for a chunk over 30 s, EngineOutOfMemory, EngineDead, EngineError."""
        longest_s = max((chunk.audio_s for chunk in chunks), default=0.0)
        if longest_s > MAX_CHUNK_S:
            raise ValueError(f"a chunk of {longest_s:.2f} s is longer than {MAX_CHUNK_S} s")
        found = [Hypothesis("", chunk.language or self._language, stop_reason="silence") for chunk in chunks]
        rows = [row for row, chunk in enumerate(chunks) if is_audible(chunk.samples)]
        for row, (answer, warnings) in zip(rows, self._hear([chunks[row] for row in rows]), strict=True):
            found[row] = Hypothesis(
                answer.text,
                found[row].language,
                answer.confidence,
                n_tokens=answer.n_tokens,
                stop_reason=answer.stop_reason,
                warnings=warnings,
                n_foretold=answer.n_foretold,
            )
        return found

    def close(self) -> None:
        """Give the weights' memory back."""
        if self._recognizer is not None:
            self._recognizer.close()
        self._recognizer = None

    def _hear(self, chunks: Sequence[ChunkAudio]) -> list[tuple[Answer, tuple[str, ...]]]:
        if not chunks:
            return []
        if self._recognizer is None:
            raise EngineDead("The engine is not loaded.")
        asked = [self._ask(chunk, self._recognizer) for chunk in chunks]
        answers = self._recognizer.answer([question for question, _ in asked])
        return [(answer, warnings) for answer, (_, warnings) in zip(answers, asked, strict=True)]

    def _ask(self, chunk: ChunkAudio, recognizer: Recognizer) -> tuple[Question, tuple[str, ...]]:
        from pipeline.engines.granite.recognizer import Question

        instruction, warnings = instruct(
            chunk, self._config.task, self._options, self._version, recognizer.count_tokens
        )
        budget = budget_of(chunk.audio_s, self._options)
        # The encoder drafts in the language that it hears: of no use to a translation.
        speculate = self._options.speculate and (chunk.task or self._config.task) != "translate"
        return Question(chunk.samples, instruction, budget, speculate), warnings

    def _warm_up(self) -> None:
        noise = np.random.default_rng(0)
        sizes = [int(length_s * SAMPLE_RATE_HZ) for length_s in _WARM_UP_S]
        self._hear([ChunkAudio(noise.integers(-3000, 3000, size, np.int16)) for size in sizes])


def _speculation(options: GraniteOptions, version: Version, checkpoint: Checkpoint, task: str) -> Speculation | None:
    """How drafts are made; None: not at all. Raises ConfigError."""
    if not options.speculate:
        if options.keep_draft_token is not None:
            raise ConfigError("engine.options.keep_draft_token does nothing without engine.options.speculate=true.")
        return None
    if task == "translate":
        raise ConfigError(
            "The encoder drafts in the language that it hears, which is of no use with engine.task=translate; "
            "leave engine.options.speculate out."
        )
    if version == "3.3":
        raise ConfigError(
            "Nothing is published of drafts by granite-speech-3.3; leave engine.options.speculate out, or take 4.0 or 4.1."
        )
    if version == "4.1" and checkpoint.draft_head is None:
        raise ConfigError(
            f"The model {checkpoint.model} lacks {DRAFT_HEAD}, which drafts come from; download it too, "
            "or leave engine.options.speculate out."
        )
    head = checkpoint.draft_head if version == "4.1" else None
    return Speculation(head, options.draft_confidence, options.keep_draft_token)


def _heads(speculation: Speculation | None) -> tuple[str, ...]:
    return (speculation.head,) if speculation and speculation.head else ()
