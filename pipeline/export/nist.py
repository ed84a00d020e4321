"""CTM and RTTM, the lines that NIST's scoring tools read. Pure.

CTM: file, channel, start, duration, word, and the word's confidence where it is known. RTTM: SPEAKER lines of ten fields. Both
name the file by `names.safe_name`, for their fields may hold no spaces; channels count from 1. What the engine did not tell is
not in the file, and the recording says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.export.cues import one_line
from pipeline.export.names import safe_name
from pipeline.export.options import ExportOptions
from pipeline.export.rendered import Rendered
from pipeline.records import Segment, Transcript

Turn = tuple[int, int, int, str]  # channel, start and end in milliseconds, speaker


def ctm(transcript: Transcript, options: ExportOptions) -> Rendered:
    """One line per word, by channel and start. All words of a recording, or, where one has no time, none of it."""
    found: list[tuple[int, int, str]] = []
    name = safe_name(transcript.id)
    for segment in transcript.segments:
        words = [word for word in segment.words if one_line(word.word)]
        if not words and one_line(segment.text):
            return Rendered(None, {"no_word_times": 1})
        for word in words:
            if word.start_s is None or word.end_s is None:
                return Rendered(None, {"no_word_times": 1})
            start_ms, end_ms = _milliseconds(word.start_s, word.end_s)
            confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
            fields = f"{name} {_channel(segment)} {_times(start_ms, end_ms)} {_token(word.word)}{confidence}\n"
            found.append((_channel(segment), start_ms, fields))
    return Rendered("".join(fields for *_, fields in sorted(found, key=lambda line: line[:2])))


def rttm(transcript: Transcript, options: ExportOptions) -> Rendered:
    """One line per stretch of one speaker. Segments that name nobody are left out, and counted."""
    turns: list[Turn] = []
    unnamed = 0
    for segment in transcript.segments:
        found = list(_turns(segment))
        turns += found
        unnamed += not found and bool(one_line(segment.text))
    left_out = {"no_speaker": unnamed} if unnamed else {}
    if unnamed and not turns:
        return Rendered(None, left_out)
    tokens = _speaker_tokens(speaker for *_, speaker in turns)
    name = safe_name(transcript.id)
    lines = [
        f"SPEAKER {name} {channel} {_times(start_ms, end_ms)} <NA> <NA> {tokens[speaker]} <NA> <NA>\n"
        for channel, start_ms, end_ms, speaker in sorted(turns)
    ]
    return Rendered("".join(lines), left_out)


def _turns(segment: Segment) -> Iterator[Turn]:
    """The segment, if it names its speaker; else runs of words of one speaker, if all of them name one and have times."""
    if segment.speaker:
        yield (_channel(segment), *_milliseconds(segment.start_s, segment.end_s), segment.speaker)
        return
    runs: list[tuple[float, float, str]] = []
    for word in segment.words:
        if not word.speaker or word.start_s is None or word.end_s is None:
            return
        if runs and runs[-1][2] == word.speaker:
            runs[-1] = (runs[-1][0], max(runs[-1][1], word.end_s), word.speaker)
        else:
            runs.append((word.start_s, word.end_s, word.speaker))
    for start_s, end_s, speaker in runs:
        yield (_channel(segment), *_milliseconds(start_s, end_s), speaker)


def _speaker_tokens(speakers: Iterable[str]) -> dict[str, str]:
    """A field for each speaker: spaces become "_", and two that would then be one are told apart by a number."""
    tokens: dict[str, str] = {}
    for speaker in speakers:
        if speaker not in tokens:
            token = plain = _token(speaker)
            number = 2
            while token in tokens.values():
                token, number = f"{plain}_{number}", number + 1
            tokens[speaker] = token
    return tokens


def _token(text: str) -> str:
    return one_line(text).replace(" ", "_") or "<NA>"


def _channel(segment: Segment) -> int:
    return (segment.channel or 0) + 1


def _milliseconds(start_s: float, end_s: float) -> tuple[int, int]:
    start_ms = max(0, round(start_s * 1000))
    return start_ms, max(start_ms, round(end_s * 1000))


def _times(start_ms: int, end_ms: int) -> str:
    return f"{start_ms / 1000:.3f} {(end_ms - start_ms) / 1000:.3f}"
