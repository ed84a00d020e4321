"""NeMo JSON Lines: recordings with what was recognised (`nemo`), and pairs of audio and text to train on (`pairs`). Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline.export.cues import one_line
from pipeline.export.options import ExportOptions
from pipeline.export.rendered import Rendered
from pipeline.records import Transcript
from pipeline.text.stretches import channels_of


def nemo(transcript: Transcript, options: ExportOptions) -> Rendered:
    """One line: where the audio is, `channel` where not all were mixed, `text` (the reference, if there is one), `pred_text`,
    `lang`, and the row's own columns."""
    found = _audio(transcript, transcript.offset_s, transcript.duration_s)
    found |= {"id": transcript.id, "pred_text": transcript.text, "status": transcript.status}
    more = _known(channel=_channel(transcript), text=transcript.reference_text)
    return Rendered(_line(found | more | _languages(transcript)))


def pairs(transcript: Transcript, options: ExportOptions) -> Rendered:
    """A line for every segment (or the recording) that passes the filters; the rest is counted by the first reason."""
    left_out: Counter[str] = Counter()
    lines = []
    for found, reason in judged_pairs(transcript, options):
        if reason:
            left_out[reason] += 1
        else:
            lines.append(_line(found))
    if not lines and not left_out:
        left_out["no_text"] += 1
    return Rendered("".join(lines) if lines else None, left_out)


def judged_pairs(transcript: Transcript, options: ExportOptions) -> Iterator[tuple[dict[str, Any], str]]:
    """What could be a pair, and the first reason that speaks against it; "": it is one."""
    refused = _refused(transcript, options)
    for found, flags in _candidates(transcript, options):
        yield found, refused or _refused_pair(found, flags, options)


def wer(transcript: Transcript) -> float | None:
    """Word error rate against the reference; None where there is none, or it has no words."""
    counts = transcript.word_errors
    if counts is None or counts.reference_length == 0:
        return None
    return (counts.substitutions + counts.deletions + counts.insertions) / counts.reference_length


def _candidates(transcript: Transcript, options: ExportOptions) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    known = _languages(transcript) | _known(wer=wer(transcript))
    if options.pairs_of == "recordings":
        text = transcript.text if options.text == "hypothesis" else transcript.reference_text or ""
        found = _audio(transcript, transcript.offset_s, transcript.duration_s) | {"id": transcript.id, "text": text}
        other = transcript.reference_text if options.text == "hypothesis" else None
        # Text of a recording that is split is that of all its channels together, as is the sound of its file.
        channel = None if (heard := _channel(transcript)) == "split" else heard
        yield found | known | _known(channel=channel, reference=other), transcript.flags
        return
    for segment in transcript.segments:
        start_s = transcript.offset_s + segment.start_s
        found = _audio(transcript, start_s, segment.end_s - segment.start_s)
        found |= {"id": f"{transcript.id}#{segment.id}", "recording_id": transcript.id, "text": segment.text}
        confidence = None if segment.confidence is None else round(segment.confidence, 6)
        of_it = {"lang": segment.language, "speaker": segment.speaker, "channel": segment.channel}
        more = _known(**of_it, confidence=confidence)
        yield found | known | more, segment.flags


def _refused(transcript: Transcript, options: ExportOptions) -> str:
    """Why nothing of a recording is used; "": nothing speaks against it."""
    if transcript.status != "ok":
        return transcript.status
    if options.max_wer is not None:
        rate = wer(transcript)
        return "not_scored" if rate is None else "wer" if rate > options.max_wer else ""
    return ""


def _refused_pair(found: dict[str, Any], flags: tuple[str, ...], options: ExportOptions) -> str:
    if not one_line(found["text"]):
        return "no_text"
    if flags and not options.flags:
        return "flagged"
    if found["duration"] < options.min_duration_s:
        return "too_short"
    return "too_long" if found["duration"] > options.max_duration_s else ""


def _audio(transcript: Transcript, offset_s: float, duration_s: float) -> dict[str, Any]:
    """The manifest's own columns, then ours: they win."""
    place = {"audio_filepath": transcript.uri, "offset": round(offset_s, 6), "duration": round(duration_s, 6)}
    return {**transcript.extra, **place}


def _languages(transcript: Transcript) -> dict[str, Any]:
    """The language of the speech; of a translated row also that of the text, and the task."""
    into = {"target_lang": transcript.target_language, "task": transcript.task} if transcript.target_language else {}
    return _known(lang=transcript.language, **into)


def _channel(transcript: Transcript) -> int | str | None:
    """As a manifest says it: the one channel that was heard, or "split"; None: all mixed, or nothing was heard on the one."""
    channels = channels_of(transcript)
    if channels != (None,):
        return "split"
    return next((segment.channel for segment in transcript.segments), None)


def _known(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _line(found: dict[str, Any]) -> str:
    return json.dumps(found, ensure_ascii=False) + "\n"
