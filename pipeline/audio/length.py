"""How long the audio of an object is. Headers are believed where the container's own rules make them exact.

Elsewhere (raw streams, an mp3 without a tag, a WebM straight from a browser) libavformat guesses from the bit rate; then the
frames or packets are counted, in bounded memory. Runs in the decoder process alone.
"""

from __future__ import annotations

import re
from typing import Any

import av

from pipeline.audio import mp3, pcm
from pipeline.audio.container import Media, open_media
from pipeline.audio.stretch import Source
from pipeline.errors import AudioError

_GUESSED = {
    "aac",
    "loas",
    "ac3",
    "eac3",
    "dts",
    "dtshd",
    "truehd",
    "mlp",
    "mp3",
    "amr",
    "amrnb",
    "amrwb",
    "gsm",
    "flv",
    "mpeg",
    "qcp",
}
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)$")


def measure(source: Source) -> dict[str, Any]:
    """Duration, container, codec, rate and channels of an object. Raises AudioError."""
    try:
        media = open_media(source)
    except AudioError as error:
        if error.code == "bad_header" and pcm.is_empty(source):
            return {"duration_s": 0.0, "container": "wav", "codec": "", "rate_hz": 0, "channels": 0}
        raise
    try:
        duration = _exact_s(source, media)
        return {
            "duration_s": max(0.0, _count_s(media) if duration is None else duration),
            "container": media.format,
            "codec": media.codec,
            "rate_hz": media.rate_hz,
            "channels": media.channels,
        }
    finally:
        media.close()


def header_s(media: Media) -> float | None:
    """What the header says about the audio stream, if it can be believed."""
    if media.format in _GUESSED:
        return None
    stream, container = media.stream, media.container
    late = 0.0 if stream.start_time is None else max(0.0, float(stream.start_time * stream.time_base) - media.begin_s)
    if stream.duration:
        return late + float(stream.duration * stream.time_base)
    if clock := _CLOCK.match(stream.metadata.get("DURATION", "")):
        return int(clock[1]) * 3600 + int(clock[2]) * 60 + float(clock[3]) - media.begin_s
    # The container's own length is that of its longest stream.
    return float(container.duration) / av.time_base if container.duration and len(container.streams) == 1 else None


def _exact_s(source: Source, media: Media) -> float | None:
    if media.format == "mp3" and (layout := mp3.read_layout(source.pread, source.size)):
        return mp3.count_samples(source.pread, layout) / layout.header.rate_hz
    return header_s(media)


def _count_s(media: Media) -> float:
    """The end of the last packet, or the sum of packets where they carry no time stamps."""
    end = counted = 0
    origin = media.begin_s / float(media.stream.time_base)
    try:
        for packet in media.container.demux(media.stream):
            length = packet.duration or 0
            counted += length
            if packet.pts is not None:
                end = max(end, packet.pts + length - round(origin))
    except av.error.FFmpegError:
        pass  # a broken tail: what came before it counts
    return float(max(end, counted) * media.stream.time_base)
