"""Which languages may be heard: `engine.allowed_languages` and `engine.language_policy`, the same for every engine."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from pipeline.engines.requests import OFFERS, primary_language
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config import EngineConfig
    from pipeline.engines.base import EngineSpec


def is_allowed(language: str | None, allowed_languages: Collection[str]) -> bool:
    """Whether a language may be. No language, or an empty list, is no objection; "pt" and "pt-BR" are one."""
    if not language or not allowed_languages:
        return True
    return primary_language(language) in set(map(primary_language, allowed_languages))


def detection_choices(config: EngineConfig, known: Collection[str]) -> frozenset[str]:
    """Those of the languages that an engine knows among which it may choose when no language is named."""
    if config.language_policy == "flag":
        return frozenset(known)
    return frozenset(language for language in known if is_allowed(language, config.allowed_languages))


def check_allowed(config: EngineConfig, spec: EngineSpec) -> None:
    """Raises ConfigError where allowed_languages cannot be kept: a language nobody knows, none that the engine knows, or
    nothing that could choose among them."""
    allowed = sorted(set(map(primary_language, config.allowed_languages)))
    if not allowed:
        return
    named = ", ".join(allowed)
    if spec.languages is not None:
        codes = frozenset().union(spec.languages, *(offer.languages for offer in OFFERS))
        unknown = [language for language in allowed if language not in codes]
        if unknown:
            raise ConfigError(
                f"engine.allowed_languages holds {unknown[0]!r}, which no engine here knows; languages are named as in "
                "'en' or 'pt-BR'."
            )
        if not spec.languages.intersection(allowed):
            raise ConfigError(
                f"The engine {spec.name} with the model {spec.model} knows none of engine.allowed_languages ({named}); "
                "take an engine that does (docs/engines.md), or other languages."
            )
    fixed = config.language or (spec.languages is not None and len(spec.languages) == 1)
    if config.language_policy == "restrict" and "language_detection" not in spec.features and not fixed:
        raise ConfigError(
            f"The engine {spec.name} with the model {spec.model} does not detect languages, so it cannot choose among "
            f"engine.allowed_languages ({named}); set engine.language, or engine.language_policy=flag to check no more "
            "than the languages that rows name."
        )
