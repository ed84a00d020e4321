"""`engine.options` that every engine which runs Whisper has, and what they mean."""

from __future__ import annotations

from pydantic import Field

from pipeline.config import Section


class DecodingOptions(Section):
    """How a chunk is decoded, whatever the weights' format."""

    max_new_tokens: int = Field(224, ge=1, le=224, description="longest text of a chunk in tokens; stops loops")
    timestamps: bool = Field(
        False, description="segment times inside the chunk from the model; costs a little accuracy"
    )
    word_times: bool = Field(False, description="word times from the model's attention; one more pass over the text")
    prompt: str = Field("", description="text that sets style or vocabulary, put before the row's keywords")
    no_speech_threshold: float = Field(
        0.6, ge=0, le=1, description="a chunk is silence where the model's doubt is above"
    )
    log_prob_threshold: float = Field(-1.0, le=0, description="… and its mean log probability below")
