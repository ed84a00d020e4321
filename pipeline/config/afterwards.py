"""The sections for what is done with a finished run: hearing stretches again, asking a language model."""

from __future__ import annotations

from typing import Any, Literal

from pipeline.config.fields import ANSWERS, Section, answer_field, marked, speed_field
from pipeline.config.sections import EngineConfig


class RetryConfig(Section):
    """What `quarry retry` hears again, on which engine, and when a text is replaced (docs/retry.md)."""

    engine: EngineConfig | None = speed_field(None, "the second engine, as in `engine`; null: the run's own")
    flagged: bool = speed_field(True, "hear flagged segments, and speech without text, again")
    flags: list[str] = speed_field([], "only segments with one of these; empty: every flag but draft")
    failed: bool = speed_field(False, "try failed recordings, and failed stretches of others, again")
    languages: list[str] = speed_field([], "only recordings in these languages; empty: all")
    stretch_s: float = speed_field(30.0, "neighbouring segments are heard together up to this length", gt=1, le=7200)
    shard_s: float = speed_field(600.0, "audio per shard of a retry: smaller than a run's, its seeks cost more", gt=0)
    min_coverage: float = speed_field(0.9, "share of the first text's letters that the second must have", ge=0, le=1)
    min_gain: float = speed_field(0.05, "confidence to be gained where flags and engine are the same", ge=0, le=1)


class SecondPassConfig(Section):
    """What `quarry second-pass` asks a language model about finished transcripts (docs/second_pass.md)."""

    name: str | None = speed_field(
        None, "front part of the pass's folder; null: the task", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"
    )
    task: Literal["summary", "question", "correction"] = answer_field("summary", "what is asked of every transcript")
    question: str | None = answer_field(None, "of the task question", min_length=1, max_length=4000)
    template: str | None = answer_field(None, "own words for the task, with {text}, {language}, {question}; null: ours")
    combine_template: str | None = answer_field(None, "own words for joining the answers to a long transcript's parts")
    system: str | None = answer_field(None, "what the model is told it is; null: ours; empty: nothing")
    model: str | None = answer_field(None, "a causal language model of transformers: a folder, or a uri of one")
    revision: str | None = answer_field(None, "revision of the model; recorded with every row")
    markup: Literal["auto", "granite", "chatml", "llama3", "plain"] = answer_field(
        "auto", "how the model marks who speaks; auto: by the special tokens it has"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = answer_field(
        "auto", "auto: bfloat16 where the accelerator has it, float16 on older ones, float32 on a CPU"
    )
    long_text: Literal["split", "cut", "fail"] = answer_field(
        "split", "a transcript longer than the context: asked in parts, cut to the first part, or a failed row"
    )
    context_tokens: int = answer_field(8192, "longest prompt and answer together; the model's own limit is kept", ge=64)
    max_answer_tokens: int = answer_field(512, "longest answer of summary and question; a correction's grows", ge=1)
    max_change: float = answer_field(
        0.4, "share of characters that a correction may change before it is rejected", gt=0, le=1
    )
    shard_recordings: int = speed_field(64, "recordings per shard: the unit of retry and commit", ge=1, le=10_000)
    shard_chars: int = speed_field(200_000, "characters per shard; a longer transcript is a shard", ge=1)
    batch_tokens: int = speed_field(32_768, "positions that decode together, padding included", ge=64)
    device: Literal["auto", "cpu", "cuda"] = speed_field("auto", "auto: CUDA where there is one")
    threads: int = speed_field(0, "CPU threads of one model; 0: all cores of the machine", ge=0)
    storage_options: dict[str, Any] = speed_field({}, "fsspec options for the uri of the model")

    def answer_settings(self) -> dict[str, Any]:
        """The settings that can change an answer."""
        return {name: getattr(self, name) for name, info in type(self).model_fields.items() if marked(info, ANSWERS)}
