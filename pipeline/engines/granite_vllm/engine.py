"""The vllm engine: the autoregressive Granite Speech models on vLLM's offline interface (`LLM.generate`).

NEVER RUN BY US: there was no machine that vLLM could be installed on. It is written from vLLM's documentation and the source of
0.32.0; its parts without vLLM are tested, and what it says when vLLM is missing. Imports vLLM late: `describe` needs none of it.
"""

from __future__ import annotations

import gc
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline.config import EngineConfig
from pipeline.engines.audible import is_audible
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.granite.asking import (
    MAX_CHUNK_S,
    MIN_POSITIONS,
    AskingOptions,
    budget_of,
    instruct,
    languages_of,
    row_tasks,
    version_of,
)
from pipeline.engines.granite.checkpoint import GRANITE, TOKENIZER_FILE, read_checkpoint, revision_of
from pipeline.engines.granite.prompts import Version
from pipeline.engines.granite_vllm.exchange import Answer, Words, pad_clip
from pipeline.engines.model_files import find_model
from pipeline.engines.options import read_options
from pipeline.engines.torch_device import check_libraries
from pipeline.errors import ConfigError, EngineDead
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis

_FAMILY = replace(GRANITE, engine="vllm", merges_adapter=False)
_PUBLISHED_RTFX = (
    546.0  # of the same models under IBM's own code on one H200: nothing is published or measured for vLLM
)
_PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)


class VllmOptions(AskingOptions):
    """`engine.options` of the vllm engine."""

    pad_to_s: float = Field(
        2.0,
        ge=0.1,
        le=MAX_CHUNK_S,
        description="clips are filled up with silence to a multiple of this; only equal lengths are computed together",
    )
    gpu_memory: float = Field(0.9, gt=0, lt=1, description="share of the accelerator's memory that vLLM takes at once")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="auto: the checkpoint's own")


class Vllm:
    """A Granite Speech model on vLLM. `transcribe` may be called from several threads; the batches run one after the other."""

    def __init__(self, config: EngineConfig) -> None:
        self.spec = self.describe(config)
        self._config = config
        self._options = read_options(VllmOptions, config)
        self._language = primary_language(config.language) if config.language else None
        if self._language is None and self.spec.languages is not None and len(self.spec.languages) == 1:
            (self._language,) = self.spec.languages
        self._version: Version = "4.1"
        self._device = threading.Lock()
        self._words: Words | None = None
        self._llm: Any = None

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Declare from the model's JSON files. Raises ConfigError."""
        options = read_options(VllmOptions, config)
        if config.device not in ("auto", "cuda"):
            raise ConfigError(
                f"The vllm engine has no device {config.device!r}; engine.device can be auto or cuda, or set engine.name=granite."
            )
        files = find_model(config.model, config.storage_options)
        checkpoint = read_checkpoint(files, _FAMILY)
        version_of(options, checkpoint)
        return EngineSpec(
            name="vllm",
            model=config.model,
            revision=config.revision or revision_of(files, checkpoint.weights),
            languages=languages_of(config, options),
            tasks=frozenset({"transcribe", "translate"}),
            features=frozenset({"keywords", "confidence"}),
            max_chunk_s=MAX_CHUNK_S,
            padding="none",
            rtfx_per_worker=_PUBLISHED_RTFX,
            licence="Apache-2.0",
            row_tasks=row_tasks(),
        )

    def load(self) -> None:
        """Fetch the files, have vLLM load them, and warm up. Raises ConfigError, first of all where vLLM is not installed."""
        check_libraries("vllm", ("vllm",), "vllm")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would tell its makers
        from vllm import LLM

        files = find_model(self._config.model, self._config.storage_options)
        checkpoint = read_checkpoint(files, _FAMILY)
        self._version = version_of(self._options, checkpoint)
        names = files.names()
        folder = files.fetch((*checkpoint.files, *(name for name in _PROCESSOR_FILES if name in names)))
        self._words = Words(folder / TOKENIZER_FILE, checkpoint.model)
        noise = np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE_HZ, np.int16)
        try:
            self._llm = LLM(
                model=str(folder),
                trust_remote_code=False,
                load_format="safetensors",
                generation_config="vllm",  # the folder's own has no say
                dtype=self._options.dtype,
                seed=0,
                max_model_len=MIN_POSITIONS,
                limit_mm_per_prompt={"audio": 1},
                gpu_memory_utilization=self._options.gpu_memory,
            )
            self._hear([ChunkAudio(noise)])
        except Exception as error:
            self.close()
            if isinstance(error, EngineDead):
                raise
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(
                f"vLLM does not run the model {self.spec.model} ({reason}); set engine.name=granite, or mend what it says."
            ) from None

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
            )
        return found

    def close(self) -> None:
        """Give the weights' memory back: vLLM ends its own process when nobody holds it."""
        with self._device:
            self._llm = self._words = None
            gc.collect()

    def _hear(self, chunks: Sequence[ChunkAudio]) -> list[tuple[Answer, tuple[str, ...]]]:
        if not chunks:
            return []
        words = self._words
        if self._llm is None or words is None:
            raise EngineDead("The engine is not loaded.")
        clips = [pad_clip(chunk.samples, self._options.pad_to_s) for chunk in chunks]
        asked = [instruct(chunk, self._config.task, self._options, self._version, words.count) for chunk in chunks]
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for row, clip in enumerate(clips):
            alike[len(clip)].append(row)
        found: dict[int, Answer] = {}
        with self._device, _vllm_errors():
            for rows in alike.values():
                prompts = [
                    {
                        "prompt_token_ids": words.prompt(asked[row][0]),
                        "multi_modal_data": {"audio": (clips[row], SAMPLE_RATE_HZ)},
                    }
                    for row in rows
                ]
                budgets = [budget_of(chunks[row].audio_s, self._options) for row in rows]
                found.update(zip(rows, self._generate(prompts, budgets, words), strict=True))
        return [(found[row], warnings) for row, (_, warnings) in enumerate(asked)]

    def _generate(self, prompts: list[dict[str, Any]], budgets: Sequence[int], words: Words) -> list[Answer]:
        from vllm import SamplingParams

        greedy = [SamplingParams(temperature=0.0, max_tokens=most, logprobs=0, detokenize=False) for most in budgets]
        outputs = self._llm.generate(prompts, greedy, use_tqdm=False)
        return [words.read(output.outputs[0]) for output in outputs]


@contextmanager
def _vllm_errors() -> Iterator[None]:
    """Sort vLLM's errors as torch's are; its engine's process being gone is the end of the engine."""
    from vllm.v1.engine.exceptions import EngineDeadError

    from pipeline.engines.granite_nar.device import device_errors

    with device_errors():
        try:
            yield
        except EngineDeadError as error:
            raise EngineDead(f"vLLM's process is gone: {error}") from None
