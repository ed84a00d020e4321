"""`engine.options` of the granite-plus engine, and what they come to for a model with so many positions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import Section
from pipeline.engines.granite.prompts import clean_keywords
from pipeline.engines.granite_plus.dictation import Limits
from pipeline.engines.granite_plus.prompts import Mode
from pipeline.errors import ConfigError

KEYWORD_POSITIONS = 512
_PROMPT_POSITIONS = 128  # about 80, with the published tokenizer
_TURN_S = 10.0  # windows begin on a multiple of it

# Most tokens per second of audio: people say up to 6 words in one; a time tag is about three tokens a word more.
_TOKENS_PER_S: dict[Mode, float] = {"transcript": 8.0, "speakers": 10.0, "words": 24.0}
_WINDOW_S: dict[Mode, float] = {"transcript": 540.0, "speakers": 540.0, "words": 300.0}  # as trained (granite.md §3.6)
_OVERLAP_S: dict[Mode, float] = {"transcript": 30.0, "speakers": 90.0, "words": 30.0}


class PlusOptions(Section):
    """`engine.options` of the granite-plus engine."""

    mode: Mode = Field("transcript", description="transcript; speakers: with who says what; words: with word times")
    keywords: list[str] = Field(
        [], description="names and terms that rows without keywords of their own may hold; mode transcript alone"
    )
    max_chunk_s: float = Field(1800.0, ge=10, le=7200, description="longest chunk; heard in windows")
    step_s: float = Field(60.0, ge=5, le=300, description="new audio per call; what is shorter is heard in one")
    window_s: float | None = Field(
        None, gt=0, le=600, description="most audio in a call; null: what the mode was trained with (540, words 300)"
    )
    overlap_s: float | None = Field(
        None, ge=5, le=300, description="of two windows of a chunk; null: 90 with speakers, else 30"
    )
    tokens_per_s: float | None = Field(
        None, gt=0, le=100, description="most tokens of text per second of audio; null: 8, speakers 10, words 24"
    )
    max_positions: int = Field(
        65_536, ge=4096, description="positions that decode together (80 KiB each in bfloat16, with published models)"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the accelerator has it, float16 on older ones, float32 on a CPU"
    )


def limits_of(options: PlusOptions, positions: int, prompt: int) -> Limits:
    """What a call may take with a prompt of so many positions beside audio and text."""
    mode = options.mode
    return Limits(
        positions=positions,
        prompt=prompt,
        tokens_per_s=options.tokens_per_s or _TOKENS_PER_S[mode],
        step_s=options.step_s,
        overlap_s=options.overlap_s or _OVERLAP_S[mode],
        window_s=options.window_s or _WINDOW_S[mode],
    )


def check_options(options: PlusOptions, model: str, positions: int, prompt: int = _PROMPT_POSITIONS) -> None:
    """Raises ConfigError: keywords in another mode, or calls that do not fit the window or the model.

    `prompt`: positions of the prompt without keywords.
    """
    if clean_keywords(options.keywords) and options.mode != "transcript":
        raise ConfigError(
            f"granite-plus takes no keywords while engine.options.mode is {options.mode}; leave engine.options.keywords out, "
            "or set mode to transcript."
        )
    limits = limits_of(options, positions, prompt + (KEYWORD_POSITIONS if options.mode == "transcript" else 0))
    fresh_s = limits.step_s + limits.overlap_s + _TURN_S
    if fresh_s > limits.window_s:
        raise ConfigError(
            f"A window of {limits.window_s:.0f} s cannot hold engine.options.overlap_s={limits.overlap_s:g}, "
            f"step_s={limits.step_s:g} and the {_TURN_S:.0f} s up to which windows are rounded; make one of the two shorter."
        )
    if limits.needed() > positions:
        raise ConfigError(
            f"The model {model} has {positions} positions, and a call with overlap_s={limits.overlap_s:g}, "
            f"step_s={limits.step_s:g} and tokens_per_s={limits.tokens_per_s:g} may need {limits.needed()}; "
            "make one of them smaller (engine.options)."
        )
