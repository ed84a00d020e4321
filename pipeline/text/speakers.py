"""Who a speaker label means. Pure.

An engine numbers the speakers of each chunk anew: "Speaker 1" of one chunk need not be "Speaker 1" of the next. Labels of
the recording's first chunk stay as they are; those of later chunks say where their numbering began, so that two people
never share a label by accident. Names come from the manifest's `speakers`, by either form of label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pipeline.records import Segment


def recording_label(label: str, numbered_from_s: float | None) -> str:
    """The label within the recording: `Speaker 1`, or `Speaker 1 @0:30:00.250` where its chunk began at 1800.25 s.

    `numbered_from_s`: where the chunk begins, in the recording's seconds; None for the recording's first chunk.
    """
    if numbered_from_s is None:
        return label
    seconds, milliseconds = divmod(round(numbered_from_s * 1000), 1000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{label} @{hour}:{minute:02d}:{second:02d}.{milliseconds:03d}"


def with_speakers(
    segments: Iterable[Segment], numbered_from_s: float | None, names: Mapping[str, str]
) -> Iterator[Segment]:
    """Segments of one chunk, and their words, with the recording's labels, or with the names given for those."""

    def named(label: str | None) -> str | None:
        if label is None:
            return None
        label = recording_label(label, numbered_from_s)
        return names.get(label, label)

    for segment in segments:
        words = tuple(
            word if word.speaker is None else replace(word, speaker=named(word.speaker)) for word in segment.words
        )
        yield replace(segment, speaker=named(segment.speaker), words=words)
