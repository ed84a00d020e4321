"""What a header promises and the object does not hold: how an upload that broke off is told from a short recording.

Containers whose length libavformat takes from their end, or from what is there, say nothing of it themselves: WAV, MP3.
Runs in the decoder process alone. Source: RIFF/WAVE as in pcm.py; the tag's byte count as in mp3.py.
"""

from __future__ import annotations

from pipeline.audio import mp3
from pipeline.audio.container import Media, Source

# Writers that cannot go back (a pipe) put the largest number they know, or a little less, where the length belongs.
_NO_PROMISE_BYTES = 2**31 - 2**16


def missing_s(source: Source, media: Media) -> float:
    """Seconds of audio that the header promises behind the end of the object; 0 where it promises none."""
    if media.format == "wav":
        return _missing_of_wav_s(source)
    if media.format == "mp3":
        return mp3.missing_s(source.pread, source.size)
    return 0.0


def _missing_of_wav_s(source: Source) -> float:
    at, bytes_per_s = 12, 0
    while len(chunk := source.pread(at, 8)) == 8:
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"fmt ":
            bytes_per_s = int.from_bytes(source.pread(at + 16, 4), "little")
        if chunk[:4] == b"data":
            there = source.size - (at + 8)
            promised = length if length < _NO_PROMISE_BYTES else there
            return max(0, promised - there) / bytes_per_s if bytes_per_s else 0.0
        at += 8 + length + length % 2
    return 0.0
