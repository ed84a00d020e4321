"""SubRip (SRT) and WebVTT. Pure. WebVTT after https://www.w3.org/TR/webvtt1/; SRT has no standard, so as players read it."""

from __future__ import annotations

import re

from pipeline.export.cues import Cue, cues_of
from pipeline.export.options import ExportOptions
from pipeline.export.rendered import Rendered
from pipeline.records import Transcript


def srt(transcript: Transcript, options: ExportOptions) -> Rendered:
    """Numbered cues; a speaker stands before the text as "Name: ". No cues: an empty file."""
    cues = cues_of(transcript.segments, options.line_width, options.line_count, name_speakers=True)
    return Rendered("".join(_srt_cue(number, cue) for number, cue in enumerate(cues, 1)))


def vtt(transcript: Transcript, options: ExportOptions) -> Rendered:
    """Cues after the header WEBVTT; a speaker is a voice tag, which players may show or style."""
    cues = cues_of(transcript.segments, options.line_width, options.line_count)
    return Rendered("WEBVTT\n" + "".join(f"\n{_vtt_cue(cue)}" for cue in cues))


def _srt_cue(number: int, cue: Cue) -> str:
    # SRT cannot escape: an arrow in the text would look like another cue's times.
    lines = "\n".join(re.sub("-{2,}>", "->", line) for line in cue.lines)
    return f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{lines}\n\n"


def _vtt_cue(cue: Cue) -> str:
    voice = f"<v {_escaped(cue.speaker)}>" if cue.speaker else ""
    lines = "\n".join(map(_escaped, cue.lines))
    return f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{voice}{lines}\n"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(time_ms: int, point: str) -> str:
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02d}:{minute:02d}:{second:02d}{point}{milliseconds:03d}"
