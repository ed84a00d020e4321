"""What to do about a failure, by its code: the sentence that stands beside its examples in the report."""

from __future__ import annotations

_HOW_TO_RETRY = "then `quarry retry --failed` hears it again"

NEXT_STEPS: dict[str, str] = {
    "not_found": f"Upload the object or correct the row; {_HOW_TO_RETRY}.",
    "access_denied": f"Give the reader rights to the object; {_HOW_TO_RETRY}.",
    "uri_refused": f"Add the folder or bucket to source.roots, or correct the row; {_HOW_TO_RETRY}.",
    "fetch_failed": "Run again, or check the store.",
    "object_too_large": f"Raise decode.max_object_bytes, or cut the object; {_HOW_TO_RETRY}.",
    "input_changed": "The object is not the one that was planned: plan a new run, or restore it.",
    "empty_file": f"Upload the object again: it holds no bytes; {_HOW_TO_RETRY}.",
    "not_audio": "Correct the row, or take it out of the manifest: this is no audio.",
    "no_audio_stream": "Take the row out of the manifest: the file has no sound.",
    "bad_header": f"Upload the object again: its beginning is broken; {_HOW_TO_RETRY}.",
    "unsupported_codec": f"Convert the object to FLAC, WAV or Opus; {_HOW_TO_RETRY}.",
    "decode_error": f"Upload the object again, or convert it; {_HOW_TO_RETRY}.",
    "decode_timeout": f"Raise decode.timeout_s, or convert the object; {_HOW_TO_RETRY}.",
    "decoder_crashed": f"Convert the object, or raise decode.memory_bytes if it is long; {_HOW_TO_RETRY}.",
    "truncated": "The text ends where the audio does: upload the whole object if there is one.",
    "audio_too_long": f"Raise decode.max_audio_s, or cut the object; {_HOW_TO_RETRY}.",
    "offset_past_end": "Correct the row: its offset lies behind the end of the audio.",
    "no_such_channel": "Correct the row: the audio does not have this channel.",
    "channels_unsplit": "Name one channel in the row, or convert the object to one or two channels.",
    "internal_error": "A defect of Quarry: report it, with the message.",
    "engine_error": "`quarry retry --failed` hears it again, with another engine if you name one.",
    "engine_oom": "Give a smaller chunk.max_s or a larger device; `quarry retry --failed` hears it again.",
    "engine_dead": "Look into the worker's log; `quarry retry --failed` hears it again.",
    "language_unsupported": "`quarry retry --failed --engine NAME` with an engine that knows the language.",
    "task_unsupported": "`quarry retry --failed --engine NAME` with an engine that translates, or correct the row.",
    "poison": "Listen to it: it ends the engine's process. `quarry retry --failed --engine NAME` tries another.",
}
UNKNOWN = "The message says what was wrong."


def next_step(code: str) -> str:
    """One sentence for a code; codes of later versions have none of their own."""
    return NEXT_STEPS.get(code, UNKNOWN)
