"""The granite-plus engine: chunks in, hypotheses with speakers or word times out. Puts the calls of all chunks to the recognizer.

Imports transformers late: `describe` needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config import EngineConfig
from pipeline.engines.audible import is_audible
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.cores import usable_cores
from pipeline.engines.granite.checkpoint import revision_of
from pipeline.engines.granite.prompts import clean_keywords
from pipeline.engines.granite_plus.checkpoint import read_plus_checkpoint
from pipeline.engines.granite_plus.dictation import Call, Dictation, Reply
from pipeline.engines.granite_plus.options import KEYWORD_POSITIONS, PlusOptions, check_options, limits_of
from pipeline.engines.granite_plus.prompts import LANGUAGES, Mode, instruction
from pipeline.engines.granite_plus.segments import segments_of, words_of
from pipeline.engines.model_files import find_model
from pipeline.engines.options import check_device, read_options
from pipeline.engines.torch_device import check_libraries, choose_device, choose_dtype, loading
from pipeline.errors import EngineDead
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis

if TYPE_CHECKING:
    from pipeline.engines.granite_plus.recognizer import Recognizer

_GUESSED_RTFX = (
    100.0  # nothing is published for it: the other models of the family, less what hearing audio again costs
)
_FEATURES: dict[Mode, str] = {"transcript": "keywords", "speakers": "speakers", "words": "word_times"}
_WARM_UP_S = (1.0, 3.0)


@dataclass(frozen=True, slots=True)
class _Hearing:
    """A chunk, what is asked about it, and how far it is heard."""

    chunk: ChunkAudio
    instruction: str
    dictation: Dictation
    warnings: tuple[str, ...]


class GranitePlus:
    """A Granite Speech Plus model. `transcribe` may be called from several threads."""

    def __init__(self, config: EngineConfig) -> None:
        self.spec = self.describe(config)
        self._config = config
        self._options = read_options(PlusOptions, config)
        self._language = primary_language(config.language) if config.language else None
        self._positions = 0
        self._recognizer: Recognizer | None = None

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Declare from the model's JSON files. Raises ConfigError."""
        options = read_options(PlusOptions, config)
        check_device(config)
        files = find_model(config.model, config.storage_options)
        checkpoint = read_plus_checkpoint(files)
        check_options(options, config.model, checkpoint.positions)
        return EngineSpec(
            name="granite-plus",
            model=config.model,
            revision=config.revision or revision_of(files, checkpoint.weights),
            languages=LANGUAGES,
            tasks=frozenset({"transcribe"}),
            features=frozenset({_FEATURES[options.mode], "confidence"}),
            max_chunk_s=options.max_chunk_s,
            padding="none",
            rtfx_per_worker=_GUESSED_RTFX,
            licence="Apache-2.0",
        )

    def load(self) -> None:
        """Fetch, verify and load the weights, and warm up. Raises ConfigError, EngineDead."""
        check_libraries("granite-plus", ("torch", "safetensors", "tokenizers", "transformers"), "granite")
        from pipeline.engines.granite_nar.device import device_errors
        from pipeline.engines.granite_plus.recognizer import Recognizer

        files = find_model(self._config.model, self._config.storage_options)
        checkpoint = read_plus_checkpoint(files)
        self._positions = checkpoint.positions
        folder = files.fetch(checkpoint.files)
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
                )
            asked = self._recognizer.prompt_positions(instruction(self._options.mode))
            check_options(self._options, self.spec.model, checkpoint.positions, asked)
            self._warm_up()

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        """One hypothesis per chunk.

        Raises ValueError for a chunk over `spec.max_chunk_s`, EngineOutOfMemory, EngineDead, EngineError.
        """
        longest_s = max((chunk.audio_s for chunk in chunks), default=0.0)
        if longest_s > self.spec.max_chunk_s:
            raise ValueError(f"a chunk of {longest_s:.2f} s is longer than {self.spec.max_chunk_s} s")
        found = [Hypothesis("", chunk.language or self._language, stop_reason="silence") for chunk in chunks]
        rows = [row for row, chunk in enumerate(chunks) if is_audible(chunk.samples)]
        for row, hearing in zip(rows, self._hear([chunks[row] for row in rows]), strict=True):
            found[row] = self._hypothesis(hearing, found[row].language)
        return found

    def close(self) -> None:
        """Give the weights' memory back."""
        if self._recognizer is not None:
            self._recognizer.close()
        self._recognizer = None

    def _hear(self, chunks: Sequence[ChunkAudio]) -> list[_Hearing]:
        """All chunks to their ends, a call of each at a time."""
        if not chunks:
            return []
        if self._recognizer is None:
            raise EngineDead("The engine is not loaded.")
        hearings = [self._begin(chunk, self._recognizer) for chunk in chunks]
        while True:
            calls = [(one, call) for one in hearings if (call := one.dictation.next_call()) is not None]
            if not calls:
                return hearings
            for (one, _), reply in zip(calls, _answers(calls, self._recognizer), strict=True):
                one.dictation.take(reply)

    def _begin(self, chunk: ChunkAudio, recognizer: Recognizer) -> _Hearing:
        mode = self._options.mode
        wanted = clean_keywords(chunk.keywords or self._options.keywords) if mode == "transcript" else ()
        kept = wanted
        while kept and recognizer.count_tokens(instruction(mode, kept)) > KEYWORD_POSITIONS:
            kept = kept[: len(kept) // 2]  # the rest would crowd out the audio
        asked = instruction(mode, kept)
        limits = limits_of(self._options, self._positions, recognizer.prompt_positions(asked))
        dictation = Dictation(len(chunk.samples), limits, recognizer.count_tokens)
        return _Hearing(chunk, asked, dictation, ("keywords_cut",) if len(kept) < len(wanted) else ())

    def _hypothesis(self, hearing: _Hearing, language: str | None) -> Hypothesis:
        mode, dictation, audio_s = self._options.mode, hearing.dictation, hearing.chunk.audio_s
        words = words_of(dictation.heard)
        segments = segments_of(dictation.heard, audio_s, mode)
        warnings = [*hearing.warnings, *dictation.warnings]
        if mode == "words" and any(word.end_s is None for word in words):
            warnings.append("word_times_incomplete")
        if mode != "words" and len(segments) > 1:
            warnings.append("segment_times_approximate")
        sure = [word.confidence for word in words if word.confidence is not None]
        return Hypothesis(
            " ".join(word.word for word in words),
            language,
            sum(sure) / len(sure) if sure else None,
            n_tokens=dictation.n_tokens,
            stop_reason=dictation.stop_reason,
            segments=segments,
            words=() if mode == "transcript" else words,
            warnings=tuple(warnings),
        )

    def _warm_up(self) -> None:
        noise = np.random.default_rng(0)
        sizes = [int(length_s * SAMPLE_RATE_HZ) for length_s in _WARM_UP_S]
        self._hear([ChunkAudio(noise.integers(-3000, 3000, size, np.int16)) for size in sizes])


def _answers(calls: Sequence[tuple[_Hearing, Call]], recognizer: Recognizer) -> list[Reply]:
    """One reply per call; where there is nothing to hear, the model is not asked."""
    from pipeline.engines.granite_plus.recognizer import Question

    replies = [Reply((), 0, "eos") for _ in calls]
    questions = [
        Question(one.chunk.samples[call.start : call.end], one.instruction, call.prefix, call.budget)
        for one, call in calls
    ]
    audible = [row for row, question in enumerate(questions) if is_audible(question.clip)]
    answers = recognizer.answer([questions[row] for row in audible]) if audible else []
    for row, reply in zip(audible, answers, strict=True):
        replies[row] = reply
    return replies
