"""Who a speaker label means. Pure.

An engine numbers the speakers of each chunk anew: "Speaker 1" of one chunk need not be "Speaker 1" of the next. Labels of
the recording's first chunk stay as they are; those of later chunks say where their numbering began, so that two people
never share a label by accident. Names come from the manifest's `speakers`, by either form of label.

Where a recording is split, each channel has speakers of its own: "Channel 0 Speaker 1". A name may also be given for all that
is heard on a channel: `Channel 0`, which the manifest may write as "0".
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
    segments: Iterable[Segment],
    numbered_from_s: float | None,
    names: Mapping[str, str],
    channel: int | None = None,
) -> Iterator[Segment]:
    """Segments of one chunk, and their words, with the recording's labels, or with the names given for those.

    `channel`: of a recording that is split. Who speaks on a channel that has a name is called by it, unless named alone.
    """
    of_channel = None if channel is None else names.get(f"Channel {channel}", names.get(f"Speaker {channel}"))

    def named(label: str | None) -> str | None:
        if label is None:
            return of_channel
        label = recording_label(label, numbered_from_s)
        if channel is None:
            return names.get(label, label)
        label = f"Channel {channel} {label}"
        return names.get(label, of_channel or label)

    for segment in segments:
        words = tuple(
            word if word.speaker is None else replace(word, speaker=named(word.speaker)) for word in segment.words
        )
        yield replace(segment, speaker=named(segment.speaker), words=words)
