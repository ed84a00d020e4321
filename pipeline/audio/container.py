"""Opens an object with libavformat, under an allow-list: nothing it contains can make anything else be opened.

Runs in the decoder process alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import av
from av.stream import Discard

from pipeline.audio.stretch import Source
from pipeline.errors import AudioError

# Containers of one recording. Not here, on purpose: playlists (hls, concat, dash), network descriptions (sdp, rtsp), images,
# subtitles, devices, and raw formats that any bytes would fit.
FORMATS = (
    "wav,w64,aiff,au,caf,flac,mp3,ogg,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac,loas,ac3,eac3,dts,dtshd,truehd,mlp,asf,avi,flv,"
    "mpegts,mpeg,amr,amrnb,amrwb,gsm,tta,wv,ape,tak,mpc,mpc8,shn,dsf,voc,sox,ircam,nistsphere,rm,nut,wtv,mxf,iff,qcp,oma"
)
_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "none", "max_streams": "64"}
# PCM in a WAV is searched for hidden DTS over many packets: ten times the cost of opening the file, for a rarity.
_WAV_OPTIONS = {**_OPTIONS, "max_probe_packets": "1"}
_BUFFER_BYTES = 64 * 2**10
_MAX_RATE_HZ, _MAX_CHANNELS = 1_536_000, 256

# These have a zero of their own: audio that starts late is late. Less is a codec's priming, more a piece of a broadcast.
_ZERO_BASED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_LATE_S = (0.1, 600.0)

_MAGIC = (
    b"RIFF",
    b"RIFX",
    b"RF64",
    b"riff",
    b"fLaC",
    b"OggS",
    b"\x1aE\xdf\xa3",
    b"FORM",
    b".snd",
    b"caff",
    b"ID3",
    b"FLV",
    b"#!AMR",
)


class View(io.RawIOBase):
    """A source as a file of its own position, from `start` on. Nameless: no library can judge by an extension."""

    def __init__(self, source: Source, start: int = 0) -> None:
        self._source, self._start, self._at = source, start, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        data = self._source.pread(self._start + self._at, size if size >= 0 else self._source.size)
        self._at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as one read goes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move; a place before the start is the start."""
        base = (0, self._at, self._source.size - self._start)[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at


@dataclass(slots=True)
class Media:
    """An open container and the audio stream that counts."""

    container: Any
    stream: Any
    format: str
    codec: str
    rate_hz: int
    channels: int
    begin_s: float  # time stamp of position 0
    duration_s: float | None  # of the container, as a bound; `length` knows the audio's own

    def close(self) -> None:
        """Give the decoder's memory back."""
        self.container.close()


def open_media(source: Source, start: int = 0, force: str | None = None) -> Media:
    """The audio stream libavformat thinks best, ready to decode.

    `start`: first byte to look at; `force`: the format, where it is known.
    Raises AudioError: not_audio, bad_header, no_audio_stream, unsupported_codec.
    """
    try:
        container = av.open(
            View(source, start),
            format=force,
            options=dict(_WAV_OPTIONS if source.pread(start, 12)[8:] == b"WAVE" else _OPTIONS),
            io_open=_refuse,
            buffer_size=_BUFFER_BYTES,
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise _unopened(source, error) from None
    try:
        return _describe(container)
    except BaseException:
        container.close()
        raise


def _describe(container: Any) -> Media:
    audio = [stream for stream in container.streams if stream.type == "audio"]
    if not audio:
        raise AudioError("no_audio_stream", f"The object is {container.format.name} without audio; correct the row.")
    stream = container.streams.best("audio") or audio[0]
    context = stream.codec_context
    if context is None:
        raise AudioError("unsupported_codec", "The audio has a codec that no decoder here knows; convert it first.")
    context.thread_count = 1
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    rate, channels = int(context.sample_rate or 0), int(context.layout.nb_channels if context.layout else 0)
    if not 0 < rate <= _MAX_RATE_HZ or not 0 < channels <= _MAX_CHANNELS:
        raise AudioError("bad_header", f"The header claims {rate} Hz and {channels} channels; check the object.")
    start = _start_s(container, stream)
    begin = 0.0 if container.format.name in _ZERO_BASED and _LATE_S[0] < start <= _LATE_S[1] else start
    duration = container.duration / av.time_base + start - begin if container.duration else None
    return Media(container, stream, container.format.name, context.name, rate, channels, begin, duration)


def _start_s(container: Any, stream: Any) -> float:
    if container.start_time is not None:
        return float(container.start_time) / av.time_base
    return float(stream.start_time * stream.time_base) if stream.start_time is not None else 0.0


def _refuse(*_: object) -> None:
    raise PermissionError("nothing beside the object itself is opened")


def _unopened(source: Source, error: Exception) -> AudioError:
    head = source.pread(0, 16)
    if isinstance(error, av.error.DecoderNotFoundError):
        return AudioError("unsupported_codec", "The audio has a codec that no decoder here knows; convert it first.")
    if head.startswith(_MAGIC) or head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return AudioError(
            "bad_header", "The object begins like audio, but its header is broken or cut off; upload it again."
        )
    return AudioError("not_audio", "The object is no audio in a known container; correct the row.")
