"""Everything that can go wrong, in two families.

    QuarryError
    ├── RunError             about the run: it stops, exit code 2; the message ends with the next step
    │   ├── ConfigError      unknown field, bad value, bad override
    │   ├── ManifestError    missing, unreadable or contradictory manifest
    │   ├── StoreError       the object store's content cannot be used
    │   │   ├── StoreRefusedError   it is full, read-only or closed to us: someone has to mend that
    │   │   └── StoreAwayError      it did not answer, however long it was asked
    │   ├── DriftError       the config, schema or input changed under a run that exists
    │   └── RunBrokenOffError  something under it failed on the way: exit code 3, the same command resumes
    └── ItemError            about one recording: it becomes a row with a stable `code`; the run goes on
        ├── AudioError       fetch and decode
        │   └── TransientError   the store's fault, not the recording's: its shard is left for the next run
        │       └── RefusedError    it refuses everything, not this object: someone has to mend that
        ├── EngineError      recognition
        │   ├── EngineOutOfMemory   the runner halves the batch and tries again
        │   └── EngineDead          the backend is gone: the actor ends its process (ray#60145)
        └── AnswerError      the second pass: a language model over a transcript

Codes are stable strings: they land in the output and people filter on them.
"""

from __future__ import annotations

from typing import Literal

Stage = Literal["manifest", "fetch", "decode", "transcribe", "publish", "answer"]

AudioCode = Literal[
    "not_found",  # no object at this uri
    "access_denied",  # the store refused to give it
    "uri_refused",  # scheme, root or path outside what the config allows
    "fetch_failed",  # the store broke off after retries
    "object_too_large",  # more bytes than decode.max_object_bytes
    "input_changed",  # size or etag differ from the plan
    "empty_file",  # zero bytes
    "not_audio",  # no known container
    "no_audio_stream",  # a container without an audio stream
    "bad_header",  # a known container whose header makes no sense (0 channels, 0 bits, cut off)
    "unsupported_codec",  # a known container, an unknown codec
    "decode_error",  # the decoder gave up before the first sample
    "decode_timeout",  # the decoder passed its deadline
    "decoder_crashed",  # the decoder process died
    "truncated",  # the audio ends before its header or the manifest says; the row is partial
    "audio_too_long",  # more audio than decode.max_audio_s
    "offset_past_end",  # the row's offset lies behind the end of the audio
    "no_such_channel",  # the row names a channel that the audio does not have
    "channels_unsplit",  # the audio cannot be split: too many channels, or their number changes
    "internal_error",  # a defect of Quarry met in this recording
]

EngineCode = Literal[
    "engine_error",  # the engine failed on this audio
    "engine_oom",  # it does not fit in memory even alone
    "engine_dead",  # the backend is gone
    "language_unsupported",  # the row's language is none of the engine's
    "task_unsupported",  # the row's task, or the language it is to be translated into, is none of the engine's
    "poison",  # this audio ended the engine's process, twice
]

AnswerCode = Literal[
    "text_too_long",  # longer than the model's context, and second_pass.long_text forbids to part it
    "text_unreadable",  # the model's tokenizer reads one of its own control tokens out of the text
]


class QuarryError(Exception):
    """Base of every error Quarry raises on purpose."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it (IPython asks for this): the sentence, no traceback."""
        return [f"quarry: {self}"]


def exit_code_of(error: BaseException) -> int:
    """The exit code of a run that ends so: 2 someone has to mend something first · 3 the same command resumes."""
    return 2 if isinstance(error, QuarryError) and not isinstance(error, RunBrokenOffError) else 3


class RunError(QuarryError):
    """About the run as a whole: one sentence (what, where), then the next step."""


class ConfigError(RunError):
    """The configuration cannot be used."""


class ManifestError(RunError):
    """The manifest cannot be used."""


class StoreError(RunError):
    """The object store cannot be used."""


class StoreRefusedError(StoreError):
    """The store is full, read-only, or closed to us: asking again changes nothing until someone has mended it."""


class StoreAwayError(StoreError):
    """The store did not answer, or only with errors of its own, for as long as it was asked."""


class DriftError(RunError):
    """A run exists under this name, made from other settings or other input."""


class RunBrokenOffError(RunError):
    """The run could not go on; what is published stays, and the same command resumes."""


class ItemError(QuarryError):
    """About one recording; becomes a failed row."""

    stage: Stage = "decode"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[ItemError], tuple[str, str]]:
        # Exceptions cross process borders; the default reduce would lose `code`.
        return type(self), (self.code, self.message)


class AudioError(ItemError):
    """A recording could not be fetched or decoded."""

    def __init__(self, code: AudioCode, message: str) -> None:
        super().__init__(code, message)
        fetch_codes = ("not_found", "access_denied", "uri_refused", "fetch_failed", "object_too_large", "input_changed")
        self.stage = "fetch" if code in fetch_codes else "decode"

    def __reduce__(self) -> tuple[type[ItemError], tuple[str, str]]:
        return type(self), (self.code, self.message)


class TransientError(AudioError):
    """The store did not give an object that may well be there; not a verdict on the recording."""


class RefusedError(TransientError):
    """The store refuses us, not one object: credentials that are wrong or have run out, rights that are gone."""


class EngineError(ItemError):
    """A chunk could not be recognised."""

    stage: Stage = "transcribe"

    def __init__(self, code: EngineCode, message: str) -> None:
        super().__init__(code, message)


class EngineOutOfMemory(EngineError):
    """The batch did not fit; a smaller one may."""

    def __init__(self, message: str = "the batch did not fit in memory") -> None:
        super().__init__("engine_oom", message)

    def __reduce__(self) -> tuple[type[ItemError], tuple[str]]:  # type: ignore[override]
        return type(self), (self.message,)


class EngineDead(EngineError):
    """The backend cannot serve again in this process."""

    def __init__(self, message: str = "the engine is gone") -> None:
        super().__init__("engine_dead", message)

    def __reduce__(self) -> tuple[type[ItemError], tuple[str]]:  # type: ignore[override]
        return type(self), (self.message,)


class AnswerError(ItemError):
    """A language model could not be asked about a transcript."""

    stage: Stage = "answer"

    def __init__(self, code: AnswerCode, message: str) -> None:
        super().__init__(code, message)
