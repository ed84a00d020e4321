"""What a run is told: one YAML file plus `a.b=c` overrides, checked before anything happens.

Two kinds of field. Those made with `text_field` change the transcripts: together they form the fingerprint, and another
fingerprint is another run. Those made with `speed_field` change only how fast or where: a run may be resumed with others.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from pipeline.source.names import ManifestField, ManifestFormat

_TEXT, _ANSWERS = "text", "answers"
_PUBLIC_OPTIONS = ("endpoint_url", "anon", "profile", "region_name")
_USER_INFO = re.compile(r"://[^/@]*@")


def text_field(default: Any, description: str, **limits: Any) -> Any:
    """A field whose value can change a transcript: part of the fingerprint."""
    return _field(default, description, {_TEXT: True}, limits)


def speed_field(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes only speed, place or limits: not part of the fingerprint."""
    return _field(default, description, {_TEXT: False}, limits)


def answer_field(default: Any, description: str, **limits: Any) -> Any:
    """A field that changes no transcript, but the answers of a second pass: part of that pass's own fingerprint."""
    return _field(default, description, {_TEXT: False, _ANSWERS: True}, limits)


def _field(default: Any, description: str, extra: dict[str, Any], limits: dict[str, Any]) -> Any:
    if isinstance(default, list | dict):
        return Field(default_factory=default.copy, description=description, json_schema_extra=extra, **limits)
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """A part of the config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SourceConfig(Section):
    """Where recordings may come from."""

    format: ManifestFormat = speed_field("auto", "auto: by the manifest's name, or by what lies in the folder")
    columns: dict[ManifestField, str] = speed_field({}, "which column holds a field: {uri: wav_path, text: sentence}")
    schemes: list[str] = speed_field(["file", "s3"], "uri schemes that rows may use")
    roots: list[str] = speed_field([], "folders or buckets that rows may point into; empty: the manifest's own folder")
    storage_options: dict[str, Any] = speed_field({}, "fsspec options for reading (endpoint_url, profile, anon …)")


class StoreConfig(Section):
    """Where the output goes."""

    storage_options: dict[str, Any] = speed_field({}, "fsspec options for writing (endpoint_url, profile …)")
    conditional_put: bool = speed_field(True, "false: the store cannot put-if-absent; the last writer of a part wins")


class PlanConfig(Section):
    """How recordings are cut into windows and packed into shards."""

    shard_s: float = text_field(
        1800.0, "audio per shard: the unit of retry and commit; 3600 feeds larger batches", gt=0, le=7200
    )
    window_s: float = text_field(1800.0, "longest stretch decoded as one; longer recordings are cut", gt=30, le=7200)
    overlap_s: float = text_field(8.0, "neighbouring windows look for a common cut within this stretch", ge=1, le=60)
    max_windows_per_shard: int = text_field(2000, "cap for archives of very short clips", ge=1)
    probe_workers: int = speed_field(4, "headers read at once where the manifest has no durations", ge=1)

    @field_validator("overlap_s")
    @classmethod
    def _seams_stay_apart(cls, overlap_s: float, info: ValidationInfo) -> float:
        # Windows are equal, so one may be hardly longer than half of window_s; its two seams must not meet.
        if overlap_s > info.data.get("window_s", 0) / 2:
            raise PydanticCustomError("overlap", "Input should be at most half of plan.window_s")
        return overlap_s


class DecodeConfig(Section):
    """Limits of the decoder. Media come from strangers."""

    max_audio_s: float = speed_field(86_400.0, "longest recording accepted (24 h); guards against lying headers", gt=0)
    max_object_bytes: int = speed_field(16 * 2**30, "largest object accepted", gt=0)
    memory_bytes: int = speed_field(2 * 2**30, "address space of the decoder process", ge=512 * 2**20)
    recycle_after_objects: int = speed_field(
        100_000, "a new decoder process after so many objects: codecs leak; a start costs what a hundred clips do", ge=1
    )
    recycle_above_bytes: int = speed_field(
        512 * 2**20, "a new one when this much is resident between objects; 50 MiB is usual", ge=128 * 2**20
    )
    timeout_s: float = speed_field(
        60.0, "wall time the decoder may take, plus timeout_per_audio_s per second of audio", gt=0
    )
    timeout_per_audio_s: float = speed_field(0.1, "see timeout_s", ge=0)
    range_bytes: int = speed_field(256 * 2**10, "smallest range read from a remote object", ge=4096)
    whole_object_bytes: int = speed_field(8 * 2**20, "remote objects up to this size are fetched whole", ge=0)


class ChunkConfig(Section):
    """How the audio of a window becomes chunks for the engine."""

    vad: Literal["silero", "energy", "none"] = text_field(
        "silero", "energy: ten times cheaper, for clean audio; none: fixed cuts"
    )
    max_s: float | None = text_field(None, "longest chunk; null: the engine's longest", gt=1)
    threshold: float = text_field(0.5, "silero: speech probability above which a frame is speech", gt=0, lt=1)
    min_speech_s: float = text_field(0.1, "shorter bursts are not speech", ge=0)
    min_silence_s: float = text_field(0.3, "shorter pauses do not end a stretch of speech", ge=0)
    pad_s: float = text_field(0.2, "kept before and after speech", ge=0)
    longest_pause_s: float | None = text_field(
        5.0, "a longer pause ends a chunk; null: chunks run over pauses, as speaker numbers need it", ge=0
    )


class BatchConfig(Section):
    """How chunks are packed for the engine."""

    max_audio_s: float = speed_field(480.0, "padded audio seconds per batch; what fits the device's memory", gt=0)
    max_chunks: int = speed_field(512, "chunks per batch", ge=1)
    timeout_s: float = speed_field(
        600.0, "a batch may take this long, plus timeout_per_audio_s per padded second; then its process is ended", gt=0
    )
    timeout_per_audio_s: float = speed_field(10.0, "see timeout_s", ge=0)
    shards_per_call: int = speed_field(1, "shards packed together; 1 keeps batches the same in every run", ge=1, le=64)


class EngineConfig(Section):
    """What recognises the speech."""

    name: str = text_field("whisper", "an engine of `pipeline.engines`")
    model: str = text_field("tiny.en", "a shipped model's name, a folder, or a uri of one")
    revision: str | None = text_field(None, "revision of the model; recorded with every row")
    language: str | None = text_field(None, "for rows that name none; null: detected where the engine can")
    allowed_languages: list[str] = text_field([], "languages that the archive holds; empty: any. See language_policy")
    language_policy: Literal["restrict", "flag"] = text_field(
        "restrict", "detection chooses among allowed_languages; flag: among all, and others get language_not_allowed"
    )
    task: Literal["transcribe", "translate"] = text_field("transcribe", "translate: into English, where the engine can")
    options: dict[str, Any] = text_field({}, "the engine's own options (docs/engines.md)")
    storage_options: dict[str, Any] = speed_field({}, "fsspec options for the uri of a model (endpoint_url, profile …)")
    device: str = speed_field("auto", "auto | cpu | cuda")
    threads: int = speed_field(0, "CPU threads of one engine; 0: all cores of the machine", ge=0)


class FlagsConfig(Section):
    """From where on a segment is flagged; null switches a flag off. docs/quality.md says where the values come from."""

    repeated_words: int | None = text_field(
        12, "repeated_ngrams: words in one phrase said three times or more in a row; people count and say no, no", ge=3
    )
    chars_per_s: float | None = text_field(
        30.0, "too_fast: letters and digits per second of the segment; fast talkers reach 25", gt=0
    )
    compression_ratio: float | None = text_field(2.4, "compressible: bytes over zlib's bytes; Whisper's limit", gt=1)
    silence_chars_per_s: float | None = text_field(
        40.0, "text_on_silence: letters and digits per second of speech that chunk.vad found in the chunk", gt=0
    )
    unheard_speech_s: float | None = text_field(
        1.0, "empty_on_speech: seconds of speech in a chunk without text; shorter is often a cough", gt=0
    )
    confidence: float | None = text_field(
        0.37, "low_confidence: mean token probability; Whisper's log probability of -1", gt=0, lt=1
    )


class ScoreConfig(Section):
    """How rows with a reference are scored. Raw text is stored; this can be done again at any time."""

    normalizer: Literal["auto", "english", "basic", "none"] = text_field(
        "auto", "auto: english for en, basic elsewhere"
    )


class RuntimeConfig(Section):
    """Where the steps run."""

    kind: Literal["ray", "local"] = speed_field("ray", "local: one process, no Ray")
    address: str = speed_field("local", "local: start Ray here; auto: join the cluster this job was submitted to")
    num_cpus: int | None = speed_field(None, "CPUs of a Ray started here; null: all", ge=1)
    object_store_bytes: int | None = speed_field(None, "object store of a Ray started here", ge=80 * 2**20)
    decode_workers: int | None = speed_field(None, "decoding actors; null: one per CPU left beside the engines", ge=1)
    engine_workers: int = speed_field(1, "engine actors", ge=1)
    engine_cpus: float = speed_field(
        0.5, "CPUs Ray books for an engine actor (a fraction: pools must not hold every CPU)", gt=0
    )
    engine_gpus: float = speed_field(0.0, "accelerators per engine actor", ge=0)
    concurrent_calls: int = speed_field(
        2, "shards in an engine actor at once: one computes, one gets ready", ge=1, le=8
    )
    task_retries: int = speed_field(
        2, "retries after a crash of a worker; finite, or one poison shard spins for ever", ge=0
    )
    usd_per_engine_hour: float = speed_field(0.0, "price of an engine actor's machine, for the cost lines", ge=0)


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
        return {name: getattr(self, name) for name, info in type(self).model_fields.items() if _marked(info, _ANSWERS)}


class RunConfig(Section):
    """Everything a run is told. docs/architecture.md says how the parts hang together."""

    manifest: str = speed_field(..., "path or uri of the manifest")
    output: str = speed_field(..., "folder or uri that receives runs")
    name: str | None = speed_field(
        None, "front part of the run id; null: the manifest's file name", pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"
    )
    source: SourceConfig = SourceConfig()
    store: StoreConfig = StoreConfig()
    plan: PlanConfig = PlanConfig()
    decode: DecodeConfig = DecodeConfig()
    chunk: ChunkConfig = ChunkConfig()
    batch: BatchConfig = BatchConfig()
    engine: EngineConfig = EngineConfig()
    flags: FlagsConfig = FlagsConfig()
    score: ScoreConfig = ScoreConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    second_pass: SecondPassConfig = SecondPassConfig()
    retry: RetryConfig = RetryConfig()

    def public(self) -> dict[str, Any]:
        """All settings, with what may be secret left out: what is printed and stored."""
        found = self.model_dump()
        sections = [found[name] for name in ("source", "store", "engine", "second_pass")]
        for section in [*sections, *filter(None, [found["retry"]["engine"]])]:
            options = section["storage_options"]
            section["storage_options"] = {key: options[key] if key in _PUBLIC_OPTIONS else "…" for key in options}
        for name in ("manifest", "output"):
            found[name] = _USER_INFO.sub("://…@", found[name])
        return found

    def text_settings(self) -> dict[str, Any]:
        """The settings that can change a transcript, as a nested dict."""
        return _text_settings(self)

    def fingerprint(self) -> str:
        """12 hex digits of the text-changing settings."""
        canonical = json.dumps(self.text_settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _text_settings(section: BaseModel) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel) and info.json_schema_extra is None:  # not one that is marked as a whole
            inner = _text_settings(value)
            if inner:
                found[name] = inner
        elif _marked(info, _TEXT):
            found[name] = value
    return found


def _marked(info: FieldInfo, mark: str) -> bool:
    extra = info.json_schema_extra
    return bool(isinstance(extra, dict) and extra.get(mark))
