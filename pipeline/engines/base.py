"""The engine protocol and the registry.

An engine turns chunks of audio into text. It knows nothing of files, shards, Ray or storage.
Laws, checked for every engine by tests/contract:

* one hypothesis per chunk, in order; the result of a chunk does not depend on its neighbours, their order or the packing;
* empty and silent chunks give empty text; a chunk longer than `spec.max_chunk_s` is a programming error (ValueError);
* out of memory raises EngineOutOfMemory, a dead backend EngineDead; `transcribe` uses no network;
* `describe` reads no weights and imports no heavy library, so that `validate` and `plan` stay instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Literal, Protocol

from pipeline.config import EngineConfig
from pipeline.engines.languages import check_allowed
from pipeline.engines.requests import Wish, shortfall
from pipeline.engines.requests import primary_language as primary_language  # engines look for it here
from pipeline.errors import ConfigError
from pipeline.records import ChunkAudio, Hypothesis


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine declares about itself with one model."""

    name: str
    model: str
    revision: str
    languages: frozenset[str] | None  # of the speech, with the config's task; None: any, or detected
    tasks: frozenset[str]
    features: frozenset[str]  # "keywords" | "word_times" | "speakers" | "confidence" | "language_detection"
    max_chunk_s: float
    padding: Literal["none", "longest", "fixed"]  # what a batch is padded to; fixed: max_chunk_s
    rtfx_per_worker: float  # rough speed for cost estimates, on the hardware named in docs/engines.md
    licence: str
    # What a row may ask for besides: "transcribe", or a language to translate into → languages of the speech. Empty: nothing.
    row_tasks: Mapping[str, frozenset[str] | None] = field(default_factory=dict)


class Engine(Protocol):
    """A recogniser with its weights."""

    spec: EngineSpec

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Declare without loading weights. Raises ConfigError for options or a model that cannot be."""
        ...

    def load(self) -> None:
        """Load and verify the weights; once per process. Raises ConfigError or EngineDead."""
        ...

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        """One hypothesis per chunk, in order."""
        ...

    def close(self) -> None:
        """Give memory back."""
        ...


# Import strings: `import pipeline` must not import an engine's libraries.
ENGINES: dict[str, str] = {
    "ctc": "pipeline.engines.ctc.engine:Ctc",
    "granite": "pipeline.engines.granite.engine:Granite",
    "granite-nar": "pipeline.engines.granite_nar.engine:GraniteNar",
    "granite-plus": "pipeline.engines.granite_plus.engine:GranitePlus",
    "whisper": "pipeline.engines.whisper:Whisper",
    "whisper-transformers": "pipeline.engines.whisper_transformers.engine:WhisperTransformers",
    "vllm": "pipeline.engines.granite_vllm.engine:Vllm",
    "fake": "pipeline.engines.fake:Fake",
}


def engine_class(name: str) -> type[Engine]:
    """The class behind an engine's name. Raises ConfigError for an unknown one."""
    if name not in ENGINES:
        known = ", ".join(sorted(ENGINES))
        raise ConfigError(f"There is no engine {name!r}; engine.name can be one of: {known}.")
    module, _, attribute = ENGINES[name].partition(":")
    found: type[Engine] = getattr(import_module(module), attribute)
    return found


def describe_engine(config: EngineConfig) -> EngineSpec:
    """What the configured engine declares. Raises ConfigError, also for a task or a language that it cannot serve."""
    spec = engine_class(config.name).describe(config)
    check_request(config, spec)
    return spec


def check_request(config: EngineConfig, spec: EngineSpec) -> None:
    """Raises ConfigError, which names an engine that can, where the engine lacks engine.task or engine.language, or cannot keep
    to engine.allowed_languages."""
    lack = shortfall(Wish.of(config.task, config.language), spec)
    if lack:
        field = "language" if config.task in spec.tasks else "task"
        raise ConfigError(f"engine.{field} cannot be {getattr(config, field)!r}: the engine {lack}.")
    check_allowed(config, spec)


def create_engine(config: EngineConfig) -> Engine:
    """The configured engine, not loaded yet: engines take their EngineConfig as the one constructor argument."""
    constructor = engine_class(config.name)
    return constructor(config)  # type: ignore[call-arg]
