"""The sections of a run's settings: source to sink, in the order in which a recording meets them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveInt, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pipeline.config.fields import Section, later_text_field, speed_field, text_field
from pipeline.source.names import ManifestField, ManifestFormat


class SourceConfig(Section):
    """Where recordings may come from."""

    format: ManifestFormat = speed_field("auto", "auto: by the manifest's name, or by what lies in the folder")
    columns: dict[ManifestField, str] = speed_field({}, "which column holds a field: {uri: wav_path, text: sentence}")
    channels: Literal["mix", "split"] = later_text_field(
        "mix", "for rows that name no channel; split: each channel by itself, as of calls with a side on each"
    )
    schemes: list[str] = speed_field(["file", "s3"], "uri schemes that rows may use")
    roots: list[str] = speed_field([], "folders or buckets that rows may point into; empty: the manifest's own folder")
    storage_options: dict[str, Any] = speed_field({}, "fsspec options for reading (endpoint_url, profile, anon …)")
    min_age_s: float = speed_field(
        0.0, "of a listing, files younger than this are left: they may still be uploaded", ge=0
    )
    only: dict[str, str] = speed_field({}, "only rows that have these values in these columns: {site: berlin}")


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
    row_group_bytes: int = speed_field(
        2**30, "largest audio column of a Parquet row group; shards read the groups of their rows from the start", gt=0
    )
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
    events: str | None = speed_field(
        None, "file that gets an event per line as JSON (docs/events.md); -: standard output", min_length=1
    )
    task_retries: int = speed_field(
        2, "retries after a crash of a worker; finite, or one poison shard spins for ever", ge=0
    )
    recycle_after_shards: int | None = speed_field(
        None,
        "on Ray, a new process for a worker that did so many; null: when its pool ends, after 2000 of the run",
        ge=1,
    )
    recycle_above_bytes: int | None = speed_field(
        None,
        "on Ray, a new process for a worker that holds more than this of its own between calls: libraries leak",
        ge=2**28,
    )

    @property
    def workers(self) -> int:
        """Engines that work side by side: without Ray there is one."""
        return self.engine_workers if self.kind == "ray" else 1

    @property
    def calls_in_flight(self) -> int:
        """Calls that Ray sends to one engine actor at once: those that go on, and as many that wait there."""
        return 2 * self.concurrent_calls


class CostConfig(Section):
    """What the run's machines cost (docs/cost.md)."""

    prices: str | None = speed_field(None, "a price file such as configs/prices.yaml; null: no cost is told")
    machines: dict[str, PositiveInt] = speed_field(
        {}, "the machines paid for while the run goes on, by their names in the price file: {gpu-node: 2, head: 1}"
    )
