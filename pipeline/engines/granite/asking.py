"""How a Granite Speech model is asked, whatever runs it: the options that word the prompt and bound the answer. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Literal

from pydantic import Field

from pipeline.config import EngineConfig, Section
from pipeline.engines.granite.checkpoint import Checkpoint
from pipeline.engines.granite.prompts import (
    LANGUAGE_NAMES,
    Version,
    clean_keywords,
    transcribed,
    transcription,
    translated_from,
    translation,
)
from pipeline.engines.requests import primary_language
from pipeline.errors import ConfigError
from pipeline.records import ChunkAudio

MAX_CHUNK_S = 30.0  # as IBM's own package cuts (granite.md §3.6)
MIN_POSITIONS = 2048  # 30 s take 300, keywords at most _KEYWORD_POSITIONS, the answer its budget
_KEYWORD_POSITIONS = 512
_NAMES: dict[Version, str] = {
    "3.3": "granite-speech-3.3",
    "4.0": "granite-4.0-1b-speech",
    "4.1": "granite-speech-4.1",
}


class AskingOptions(Section):
    """`engine.options` of every engine that runs the autoregressive Granite models."""

    version: Literal["auto", "3.3", "4.0", "4.1"] = Field(
        "auto",
        description="whose prompts: 3.3, 4.0 (granite-4.0-1b-speech) or 4.1; auto: as the model's name or files tell",
    )
    target_language: str = Field("en", description="the language to write in, with engine.task translate")
    punctuation: bool = Field(
        False, description="punctuation and upper case (4.1 alone); without effect on rows with keywords"
    )
    keywords: list[str] = Field([], description="names and terms that rows without keywords of their own may hold")
    tokens_per_s: float = Field(
        8.0, gt=0, le=100, description="most tokens of text per second of audio, beside 16 for all"
    )
    max_new_tokens: int = Field(400, ge=1, le=1000, description="most tokens of text of any chunk")


def languages_of(config: EngineConfig, options: AskingOptions, version: Version = "4.1") -> frozenset[str]:
    """Languages of the audio: of the whole task, or of the pair. Raises ConfigError where there is no such pair."""
    target = primary_language(options.target_language)
    if config.task != "translate":
        if target != "en":
            raise ConfigError(
                f"engine.options.target_language={options.target_language} does nothing while engine.task is transcribe; "
                "set engine.task=translate, or leave it out."
            )
        return transcribed(version)
    found = translated_from(target, version)
    if not found:
        raise ConfigError(
            f"The {config.name} engine cannot translate into {options.target_language!r}; "
            f"engine.options.target_language can be one of: {', '.join(sorted(LANGUAGE_NAMES))}."
        )
    source = primary_language(config.language) if config.language else None
    if source in transcribed(version) and source not in found:
        raise ConfigError(
            f"The {config.name} engine cannot translate {source!r} into {target!r}: one of the two has to be English, and not "
            "both; correct engine.language or engine.options.target_language."
        )
    return found


def row_tasks(version: Version = "4.1") -> dict[str, frozenset[str] | None]:
    """What rows may ask for: "transcribe", or a language to translate into, and the languages of the speech."""
    into = {target: translated_from(target, version) for target in LANGUAGE_NAMES}
    return {"transcribe": transcribed(version), **into}


def version_of(options: AskingOptions, checkpoint: Checkpoint, known: Collection[Version] = ("4.0", "4.1")) -> Version:
    """Whose prompts the model knows. Raises ConfigError where nothing tells, or where it cannot do what is asked.

    `known`: versions that the engine can ask.
    """
    version = checkpoint.version if options.version == "auto" else options.version
    if version is None:
        raise ConfigError(
            f"Nothing tells whether {checkpoint.model} is {' or '.join(_NAMES[one] for one in known)}, which are asked "
            f"differently; set engine.options.version to {' or '.join(map(repr, known))}."
        )
    if version not in known:
        raise ConfigError(
            f"The model {checkpoint.model} is {_NAMES[version]}, which this engine cannot ask; set engine.name=granite."
        )
    if options.punctuation and version != "4.1":
        raise ConfigError(
            f"{_NAMES[version]} writes no punctuation; leave engine.options.punctuation out, or take granite-speech-4.1-2b."
        )
    if options.keywords and version == "3.3":
        raise ConfigError(
            "granite-speech-3.3 takes no keywords; leave engine.options.keywords out, or take granite-speech-4.1-2b."
        )
    if checkpoint.positions < MIN_POSITIONS:
        raise ConfigError(
            f"The model {checkpoint.model} has {checkpoint.positions} positions, and {MAX_CHUNK_S:.0f} s with keywords may need "
            f"{MIN_POSITIONS}; take another model."
        )
    return version


def instruct(
    chunk: ChunkAudio, task: str, options: AskingOptions, version: Version, count_tokens: Callable[[str], int]
) -> tuple[str, tuple[str, ...]]:
    """The instruction for a chunk, and warnings: keywords that would crowd out the audio are cut. 3.3 is told of none.

    `task`: of chunks that name none.
    """
    task = chunk.task or task
    target = primary_language(chunk.target_language or options.target_language)
    wanted = clean_keywords(chunk.keywords or options.keywords) if version != "3.3" else ()
    kept = wanted
    while kept and count_tokens(_word(kept, task, target, options, version)) > _KEYWORD_POSITIONS:
        kept = kept[: len(kept) // 2]
    return _word(kept, task, target, options, version), ("keywords_cut",) if len(kept) < len(wanted) else ()


def budget_of(audio_s: float, options: AskingOptions) -> int:
    """Most tokens of text that a chunk may have."""
    return min(16 + math.ceil(options.tokens_per_s * audio_s), options.max_new_tokens)


def _word(keywords: Sequence[str], task: str, target: str, options: AskingOptions, version: Version) -> str:
    if task == "translate":
        return translation(target, keywords, punctuated=options.punctuation, version=version)
    return transcription(version, keywords, punctuated=options.punctuation)
