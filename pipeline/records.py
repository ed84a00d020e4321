"""The records that pass between the steps; nothing else may.

Times are float seconds from the recording's start: the start of what the manifest row names (its `offset`, if it has one).
Samples are int16, 16 kHz, mono. Every record is frozen; lists are tuples.

    Recording ─► Window ─► Shard ─► DecodedShard ─► TranscribedShard ─► Transcript rows ─► Receipt
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import AudioError, ItemError
from pipeline.receipts import Receipt as Receipt  # the last of the records
from pipeline.receipts import StepTime as StepTime
from pipeline.receipts import Undone as Undone

SAMPLE_RATE_HZ = 16_000
SPLIT = -1  # as `Recording.channel`: every channel is transcribed by itself

Samples = npt.NDArray[np.int16]
Status = Literal["ok", "partial", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Recording:
    """One row of the manifest."""

    id: str
    uri: str
    offset_s: float = 0.0  # where the row's audio starts inside the object
    duration_s: float | None = None  # None: to the end of the object (probed while planning)
    language: str | None = None  # of the speech; None: the config's, else detected where the engine can
    task: str | None = None  # transcribe | translate; None: the config's
    target_language: str | None = None  # of the text, where it is translated; None: the engine's own
    keywords: tuple[str, ...] = ()
    reference_text: str | None = None
    channel: int | None = None  # 0-based; None: all channels mixed down; SPLIT: each by itself
    speakers: Mapping[str, str] = field(default_factory=dict)  # speaker or channel → name (pipeline.text.speakers)
    extra: Mapping[str, str] = field(default_factory=dict)  # pass-through columns


@dataclass(frozen=True, slots=True)
class Probe:
    """What the header of an object says."""

    duration_s: float
    size_bytes: int
    etag: str | None = None
    container: str = ""
    codec: str = ""
    rate_hz: int = 0
    channels: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of one recording: the unit of decoding. A short recording is one window.

    `start_s`/`end_s` are the planned bounds; neighbours meet there and agree on the real cut near it
    (`pipeline.audio.seam`). `open_end`: the length came from the header, so read on to the real end of the audio.
    """

    recording: Recording
    index: int
    count: int
    start_s: float
    end_s: float
    open_end: bool = True
    size_bytes: int | None = None  # of the object when planned; None where the manifest gave the duration
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of scheduling, of retry and of commit: some windows, about `plan.shard_s` of audio."""

    shard_id: str  # index and hash of the windows: "00042-1f3ac9d2"
    index: int
    windows: tuple[Window, ...]
    audio_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a recording, or a part of it, has no text."""

    stage: str
    code: str
    message: str  # one sentence, at most 500 characters, no query strings
    attempts: int = 1

    @staticmethod
    def of(error: Exception) -> Failure:
        """What an error means for the one recording it is about; an error we did not foresee is an `internal_error`."""
        if not isinstance(error, ItemError):
            error = AudioError("internal_error", f"Quarry failed on this recording: {type(error).__name__}: {error}.")
        return Failure(error.stage, error.code, " ".join(error.message.split())[:500])


@dataclass(frozen=True, slots=True)
class DecodeReport:
    """How one window was decoded."""

    decoder: str = ""  # libsndfile | pyav | none: plain samples
    container: str = ""
    codec: str = ""
    source_rate_hz: int = 0
    source_channels: int = 0
    split_channels: int = 0  # channels that came apart; 0: they were mixed, or one was asked for
    decoded_s: float = 0.0
    expected_s: float = 0.0
    decode_s: float = 0.0  # CPU seconds of the decoder
    fetched_bytes: int = 0
    missing_s: float = 0.0  # promised by the header and not there, behind the end
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DecodedAudio:
    """Samples of [start_s, end_s) of a recording and how they came: [samples], of a split recording [channels, samples]."""

    samples: Samples
    start_s: float
    report: DecodeReport

    @property
    def n_samples(self) -> int:
        """Of each channel."""
        return int(self.samples.shape[-1])

    @property
    def end_s(self) -> float:
        """Where they end, in the recording's seconds."""
        return self.start_s + self.n_samples / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of speech for the engine: at most its longest chunk."""

    window: int  # position in Shard.windows
    index: int  # within the window
    start_s: float
    end_s: float
    offset: int  # first sample in DecodedShard.pcm
    n_samples: int
    speech_s: float | None = (
        None  # of it, what the voice activity detection heard, without padding; None: there was none
    )
    channel: int | None = None  # where the recording is split

    @property
    def audio_s(self) -> float:
        """Length in seconds, from the samples."""
        return self.n_samples / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time without text: no speech in it, speech that the engine gave no text for, or a failure."""

    start_s: float
    end_s: float
    kind: Literal["non_speech", "unheard", "failed"]
    channel: int | None = None  # of a split recording: the channel this is said of; None: of all that is heard


@dataclass(frozen=True, slots=True)
class DecodedWindow:
    """What became of one window: bounds after the seam cut and what is in it, or a failure."""

    start_s: float
    end_s: float
    spans: tuple[Span, ...] = ()  # everything in [start_s, end_s) that is not in a chunk (of its channel)
    report: DecodeReport = field(default_factory=DecodeReport)
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DecodedShard:
    """A shard ready for the engine. `windows` has one entry per Shard.windows, in order; `pcm` holds the chunks alone."""

    shard: Shard
    windows: tuple[DecodedWindow, ...]
    chunks: tuple[Chunk, ...]
    pcm: Samples
    decoded_at_s: float = 0.0  # Unix time; 0: not known
    decoding: StepTime = field(default_factory=lambda: StepTime())
    replaced: tuple[str, ...] = ()  # stages whose worker had just taken the place of one that died

    def samples(self, chunk: Chunk) -> Samples:
        """The chunk's samples: a view, int16 [n_samples]."""
        return self.pcm[chunk.offset : chunk.offset + chunk.n_samples]

    def chunk_audio(self, chunk: Chunk) -> ChunkAudio:
        """The chunk as an engine sees it."""
        recording = self.shard.windows[chunk.window].recording
        return ChunkAudio(
            self.samples(chunk), recording.language, recording.keywords, recording.task, recording.target_language
        )


@dataclass(frozen=True, slots=True, eq=False)
class ChunkAudio:
    """What an engine sees of a chunk: samples and the row's own wishes, no files, no shards."""

    samples: Samples
    language: str | None = None
    keywords: tuple[str, ...] = ()
    task: str | None = None  # None: the config's
    target_language: str | None = None  # None: the engine's own

    @property
    def audio_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True)
class Word:
    """A word and when it was said. A value the engine does not give is None: never invented."""

    word: str
    start_s: float | None = None
    end_s: float | None = None
    confidence: float | None = None
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of transcript."""

    id: int
    start_s: float
    end_s: float
    text: str
    language: str | None = None
    speaker: str | None = None
    channel: int | None = None
    confidence: float | None = None  # mean token probability, 0 to 1
    flags: tuple[str, ...] = ()
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What an engine heard in one chunk. `segments` (times from the chunk's start) may be empty: the chunk is one segment."""

    text: str
    language: str | None = None
    confidence: float | None = None
    n_tokens: int | None = None
    stop_reason: str = ""  # "eos" | "length" | "loop" | "single_pass" | "silence" | "draft"
    segments: tuple[Segment, ...] = ()
    words: tuple[Word, ...] = ()
    warnings: tuple[str, ...] = ()  # what the row should say about how it was heard, such as "keywords_ignored"
    n_foretold: int | None = None  # of n_tokens, those that a draft had right; None: no draft was tried

    @property
    def is_draft(self) -> bool:
        """Whether the engine was sure enough of its first, cheap hypothesis to keep it unedited."""
        return self.stop_reason == "draft"


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What a shard cost on the engine."""

    engine_s: float = 0.0  # seconds inside Engine.transcribe
    wait_s: float = 0.0  # seconds the engine stood idle before this shard came
    audio_s: float = 0.0  # seconds of audio given to the engine
    padded_s: float = 0.0  # seconds the engine computed for them, padding included
    batches: int = 0
    draft_s: float = 0.0  # seconds of audio whose text is the engine's unedited draft
    drafted_tokens: float = 0.0  # tokens of text of which the engine tried to guess several at a time
    foretold_tokens: float = 0.0  # of them, those that were guessed right
    queued_s: float = 0.0  # seconds the decoded shard waited for the engine
    call_s: float = 0.0  # wall seconds from its call to its end; more than engine_s where calls share an engine
    done_at_s: float = 0.0  # Unix time at which the engine was done with the shard; 0: not known
    backoffs: float = 0.0  # batches that ran out of memory and were halved

    def share(self, part: float) -> EngineStats:
        """The part of the cost that falls to one of several shards packed together."""
        return EngineStats(
            self.engine_s * part,
            self.wait_s * part,
            self.audio_s * part,
            self.padded_s * part,
            self.batches,
            self.draft_s * part,
            self.drafted_tokens * part,
            self.foretold_tokens * part,
            backoffs=self.backoffs * part,
        )


@dataclass(frozen=True, slots=True)
class TranscribedShard:
    """A shard with one outcome per chunk, in order, no audio. `decoding` and `replaced` as in DecodedShard."""

    shard: Shard
    windows: tuple[DecodedWindow, ...]
    chunks: tuple[Chunk, ...]
    outcomes: tuple[Hypothesis | Failure, ...]
    stats: EngineStats
    decoding: StepTime = field(default_factory=lambda: StepTime())
    replaced: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Edit counts against a reference: counts, not ratios, so any slice's rate is an exact sum."""

    substitutions: int
    deletions: int
    insertions: int
    reference_length: int


@dataclass(frozen=True, slots=True)
class Transcript:
    """One row of the output: a recording, or one window of a long one (`window_count` > 1, in `parts/` only)."""

    id: str
    uri: str
    status: Status
    offset_s: float
    duration_s: float
    text: str
    segments: tuple[Segment, ...]
    spans: tuple[Span, ...]  # what is not in a segment: declared non-speech, unheard or failed
    failure: Failure | None
    language: str | None  # of the speech
    reference_text: str | None
    warnings: tuple[str, ...]
    flags: tuple[str, ...]
    word_errors: ErrorCounts | None
    char_errors: ErrorCounts | None
    normalizer: str | None
    decode_s: float
    engine_s: float
    window_index: int
    window_count: int
    window_start_s: float
    extra: Mapping[str, str]
    task: str = "transcribe"
    target_language: str | None = None  # of the text where it is translated; None: it is in `language`

    @property
    def text_language(self) -> str | None:
        """The language of the text: for the words between words, and for what it is compared with."""
        return self.target_language or self.language

    @property
    def rtfx(self) -> float | None:
        """Audio seconds, of each channel that was heard, per engine second; None where the engine did nothing."""
        return self.duration_s * self.split_channels / self.engine_s if self.engine_s > 0 else None

    @property
    def split_channels(self) -> int:
        """How many channels were kept apart; 1 where they were mixed, or one was asked for.

        Of those kept apart, each has its own say of every second: a span, or a segment beside other channels' segments.
        """
        named = {span.channel for span in self.spans} - {None}
        heard = {segment.channel for segment in self.segments} - {None}
        return max(1, len(named | heard)) if named or len(heard) > 1 else 1


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What every row says about the run that made it."""

    run_id: str
    fingerprint: str
    engine: str
    model: str
    model_revision: str
