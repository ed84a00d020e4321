"""What a Whisper model can do, told without its weights, whatever their format: one set of refusals for every engine on it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import EngineConfig
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.options import check_device
from pipeline.errors import ConfigError

MAX_CHUNK_S = 30.0


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What can be said of a model without reading its weights."""

    revision: str
    languages: frozenset[str]
    multilingual: bool
    can_align: bool
    weights_bytes: int
    licence: str


def declare(config: EngineConfig, card: ModelCard, *, word_times: bool, rtfx: float) -> EngineSpec:
    """The engine `config.name` with this model. Raises ConfigError for what the model cannot do of what is asked."""
    name = config.name
    language = primary_language(config.language) if config.language else None
    check_device(config)
    if language and language not in card.languages:
        advice = f"one of {len(card.languages)} others" if card.multilingual else "en, or take a multilingual model"
        raise ConfigError(
            f"The model {config.model} does not know {config.language!r}; engine.language can be {advice}."
        )
    if config.task == "translate" and not card.multilingual:
        raise ConfigError(
            f"The model {config.model} cannot translate; take a multilingual one or engine.task=transcribe."
        )
    if word_times and not card.can_align:
        raise ConfigError(f"The model {config.model} gives no word times; set engine.options.word_times=false.")
    features = {"keywords", "confidence"}
    features |= {"word_times"} if card.can_align else set()
    features |= {"language_detection"} if card.multilingual else set()
    return EngineSpec(
        name=name,
        model=config.model,
        revision=config.revision or card.revision,
        languages=card.languages,
        tasks=frozenset({"transcribe", "translate"} if card.multilingual else {"transcribe"}),
        features=frozenset(features),
        max_chunk_s=MAX_CHUNK_S,
        padding="fixed",
        rtfx_per_worker=rtfx,
        licence=card.licence,
        row_tasks={"transcribe": card.languages, "en": card.languages} if card.multilingual else {},
    )
