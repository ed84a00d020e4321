"""TSV and JSON in the shape that OpenAI's Whisper writes, for programs that read its files. Pure."""

from __future__ import annotations

import json
from typing import Any

from pipeline.export.cues import one_line
from pipeline.export.options import ExportOptions
from pipeline.export.rendered import Rendered
from pipeline.records import Segment, Transcript, Word


def tsv(transcript: Transcript, options: ExportOptions) -> Rendered:
    """`start`, `end` (whole milliseconds) and `text`, one row per segment."""
    rows = [
        f"{round(segment.start_s * 1000)}\t{round(segment.end_s * 1000)}\t{safe_cell(one_line(segment.text))}\n"
        for segment in transcript.segments
    ]
    return Rendered("start\tend\ttext\n" + "".join(rows))


def safe_cell(text: str) -> str:
    """The text, with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def whisper_json(transcript: Transcript, options: ExportOptions) -> Rendered:
    """Whisper's keys where Quarry knows their values, and `confidence`, `speaker`, `channel`, `flags` beside them.

    Whisper's `avg_logprob`, `no_speech_prob`, `tokens` and the like are not in the run's tables, so they are not in the file.
    """
    found = {
        "text": transcript.text,
        "segments": [_segment(number, segment) for number, segment in enumerate(transcript.segments)],
        "language": transcript.language,
        "id": transcript.id,
        "status": transcript.status,
        "duration": transcript.duration_s,
    }
    return Rendered(json.dumps(found, ensure_ascii=False) + "\n")


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    found: dict[str, Any] = {"id": number, "start": segment.start_s, "end": segment.end_s, "text": segment.text}
    # The table's 32-bit numbers have about seven digits; the rest of a double would be noise.
    confidence = None if segment.confidence is None else round(segment.confidence, 6)
    known = {"speaker": segment.speaker, "channel": segment.channel, "confidence": confidence}
    found |= {key: value for key, value in known.items() if value is not None}
    if segment.flags:
        found["flags"] = list(segment.flags)
    if segment.words:
        found["words"] = [_word(word) for word in segment.words]
    return found


def _word(word: Word) -> dict[str, Any]:
    probability = None if word.confidence is None else round(word.confidence, 6)
    known = {"start": word.start_s, "end": word.end_s, "probability": probability, "speaker": word.speaker}
    return {"word": word.word} | {key: value for key, value in known.items() if value is not None}
