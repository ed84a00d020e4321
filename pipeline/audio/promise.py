"""What a header promises and the object does not hold: how an upload that broke off is told from a short recording.

Containers whose length libavformat takes from their end, or from what is there, say nothing of it themselves: WAV, MP3.
Runs in the decoder process alone. Source: RIFF/WAVE as in wav.py; the tag's byte count as in mp3.py.
"""

from __future__ import annotations

from pipeline.audio import mp3, wav
from pipeline.audio.container import Media
from pipeline.audio.stretch import Source

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
    bytes_per_s = 0
    for name, start, length in wav.chunks(source):
        if name == b"fmt ":
            bytes_per_s = int.from_bytes(source.pread(start + 8, 4), "little")
        if name == b"data":
            there = source.size - start
            promised = length if length < _NO_PROMISE_BYTES else there
            return max(0, promised - there) / bytes_per_s if bytes_per_s else 0.0
    return 0.0
