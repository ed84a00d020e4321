"""Plain PCM and FLAC through libsndfile: up to twice as fast as libavcodec, used where both agree on what the file holds.

Runs in the decoder process alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soundfile

from pipeline.audio import wav
from pipeline.audio.container import Media, View
from pipeline.audio.stretch import Block, Source

_CODECS = {"flac", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_u8", "pcm_alaw", "pcm_mulaw"}
_WIDE = {"PCM_24", "PCM_32", "FLOAT", "DOUBLE"}  # more than int16 holds
_BLOCK_S = 4


class Stumbled(Exception):
    """libsndfile gave less than the header promised: the file is damaged, and libavcodec salvages more."""


def open_agreed(source: Source, media: Media) -> soundfile.SoundFile | None:
    """The file, if libsndfile sees the same rate, channels and length in it as libavformat does."""
    if media.format not in ("wav", "flac") or media.codec not in _CODECS:
        return None
    try:
        file = soundfile.SoundFile(View(source))
    except (soundfile.SoundFileError, TypeError, ValueError):
        return None
    if (file.samplerate, file.channels, file.frames) == (media.rate_hz, media.channels, media.stream.duration):
        return file
    file.close()
    return None


def is_empty(source: Source) -> bool:
    """Whether this is a WAV header with nothing behind it: a legal recording of no length, which libavformat takes for broken."""
    head = source.pread(0, 12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return False
    end, described = 12, False
    for name, start, length in wav.chunks(source):
        described = described or name == b"fmt "
        if name == b"data":
            return described and start >= source.size
        end = start + length
    return described and end == source.size


def blocks(file: soundfile.SoundFile, want: int) -> Iterator[Block]:
    """(rate, planes [channels, n]) from sample `want` on. Raises Stumbled."""
    at, total, rate = want, file.frames, file.samplerate
    dtype = "float32" if file.subtype in _WIDE else "int16"
    try:
        if at < total:
            file.seek(at)
        while at < total:
            data = file.read(min(_BLOCK_S * rate, total - at), dtype=dtype, always_2d=True)
            if not len(data):
                raise Stumbled
            at += len(data)
            yield rate, np.ascontiguousarray(data.T)
    except soundfile.SoundFileError:
        raise Stumbled from None
