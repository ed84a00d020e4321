"""WAV files that need no decoder: mono PCM or G.711 behind a header without surprises, read as it lies.

There is nothing in such a file that a codec could trip over, so the reader takes the samples itself and saves the way through the
decoder process, which costs as much as decoding them. Everything else that calls itself WAV goes to the decoder: other
codecs, several channels (S/PDIF hides in stereo), extended headers, lengths that do not add up, compressed streams that call
themselves PCM.
Sources: RIFF, Multimedia Programming Interface and Data Specifications 1.0, 1991; ITU-T G.711, tables 1 and 2.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.audio.stretch import Block, Output, Source, Stretch, decode_audibly, too_long
from pipeline.audio.wire import Request
from pipeline.errors import AudioError
from pipeline.records import SAMPLE_RATE_HZ, Samples

_HEAD_BYTES = 4096  # what lies before the samples has to fit
_FORMAT = struct.Struct("<HHIIHH")  # tag, channels, rate, bytes per second, bytes per sample, bits
# (tag, bits) -> the name libavformat gives it, and the samples' type
_CODECS = {
    (1, 16): ("pcm_s16le", "<i2"),
    (1, 32): ("pcm_s32le", "<i4"),
    (3, 32): ("pcm_f32le", "<f4"),
    (6, 8): ("pcm_alaw", "u1"),
    (7, 8): ("pcm_mulaw", "u1"),
}
_NOTES = {b"fact": 4, b"PEAK": 8, b"bext": 602, b"JUNK": 0}  # at least so many bytes; they say nothing about samples
_MOST_NOTES = 8  # behind the samples
# How AC-3, DTS (in four arrangements) and ID3 begin: some writers put them behind a header that says PCM.
_HIDDEN = (
    b"\x0bw",
    b"w\x0b",
    b"\x7f\xfe\x80\x01",
    b"\xfe\x7f\x01\x80",
    b"\x1f\xff\xe8\x00",
    b"\xff\x1f\x00\xe8",
    b"ID3",
)
_RATES_HZ = range(8_000, 192_001)
_BLOCK_S = 4


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the samples lie: their first byte, how many there are, and of what kind."""

    start: int
    n_samples: int
    dtype: str
    codec: str
    rate_hz: int

    @property
    def duration_s(self) -> float:
        """How long they sound."""
        return self.n_samples / self.rate_hz


def chunks(source: Source) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte, length as it is written) of each chunk of a RIFF file. The file may end anywhere in the last."""
    at = 12
    while len(head := source.pread(at, 8)) == 8:
        length = int.from_bytes(head[4:], "little")
        yield head[:4], at + 8, length
        at += 8 + length + length % 2


def read_layout(source: Source) -> Layout | None:
    """Where the samples of a plain mono WAV lie; None for every other object."""
    head = source.pread(0, _HEAD_BYTES)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE" or int.from_bytes(head[4:8], "little") != source.size - 8:
        return None
    described: bytes | None = None
    for name, start, length in chunks(_Head(head)):
        if name == b"data":
            layout = None if described is None else _plain(described, start, length, source.size)
            is_alone = layout and not _hides_a_codec(head[start : start + 4]) and _ends_in_notes(source, start + length)
            return layout if is_alone else None
        if name == b"fmt " and described is None and _is_short(head[start : start + length]):
            described = head[start : start + _FORMAT.size]
        elif not _is_note(name, length, head[start : start + 4]):
            return None
    return None


def answer(request: Request, source: Source, layout: Layout, output: Output) -> dict[str, Any]:
    """What the decoder would report of it (`pipeline.audio.decode.answer`). Raises AudioError."""
    kind = {"container": "wav", "codec": layout.codec}
    if request.probe:
        return {**kind, "duration_s": layout.duration_s, "rate_hz": layout.rate_hz, "channels": 1}
    begun_s = time.thread_time()
    stretch = Stretch.of(request)
    if stretch.end is None and layout.duration_s * SAMPLE_RATE_HZ - stretch.start > stretch.limit:
        raise too_long()
    found = decode_audibly(lambda second: _blocks(source, layout, second), stretch, output)
    spent_s = time.thread_time() - begun_s
    known = {"source_rate_hz": layout.rate_hz, "source_channels": 1, "header_s": layout.duration_s}
    return {**kind, **known, "decoder": "none", "decode_s": spent_s, **found}


def _blocks(source: Source, layout: Layout, second: int) -> Iterator[Block]:
    """(rate, planes [1, n]) from a whole second on. Raises AudioError input_changed."""
    dtype = np.dtype(layout.dtype)
    for at in range(second * layout.rate_hz, layout.n_samples, _BLOCK_S * layout.rate_hz):
        wanted = min(_BLOCK_S * layout.rate_hz, layout.n_samples - at) * dtype.itemsize
        data = source.pread(layout.start + at * dtype.itemsize, wanted)
        if len(data) != wanted:
            raise AudioError("input_changed", "The file has become shorter while it was read; plan a new run.")
        samples = np.frombuffer(data, dtype)
        if layout.codec in _LAWS:
            samples = _LAWS[layout.codec][samples]
        yield layout.rate_hz, samples[np.newaxis]


def _is_note(name: bytes, length: int, begin: bytes) -> bool:
    """Whether a chunk is one that may be passed over."""
    if name == b"LIST":
        return length >= 4 and begin in (b"INFO", b"adtl")
    return name in _NOTES and length >= _NOTES[name]


def _ends_in_notes(source: Source, end: int) -> bool:
    """Whether nothing but notes follows: a second run of samples, for one, would be another's to judge."""
    end += end % 2
    for _ in range(_MOST_NOTES):
        if end >= source.size:
            return True
        head = source.pread(end, 12)
        length = int.from_bytes(head[4:8], "little")
        if len(head) < 8 or end + 8 + length > source.size or not _is_note(head[:4], length, head[8:]):
            return False
        end += 8 + length + length % 2
    return False


def _hides_a_codec(begin: bytes) -> bool:
    """Whether the first samples are the head of a compressed stream, MPEG audio among them."""
    if begin.startswith(_HIDDEN):
        return True
    if len(begin) < 3 or begin[0] != 0xFF or begin[1] & 0xE0 != 0xE0:
        return False
    version, layer, rate, frequency = begin[1] >> 3 & 3, begin[1] >> 1 & 3, begin[2] >> 4, begin[2] >> 2 & 3
    return version != 1 and rate not in (0, 15) and frequency != 3 and (layer != 0 or begin[1] & 0xF6 == 0xF0)


def _is_short(described: bytes) -> bool:
    """Whether a format chunk says what every one says, and at most that it says no more."""
    return len(described) == _FORMAT.size or (len(described) == _FORMAT.size + 2 and described[-2:] == b"\0\0")


def _plain(described: bytes, start: int, length: int, size: int) -> Layout | None:
    tag, n_channels, rate_hz, bytes_per_s, width, bits = _FORMAT.unpack(described)
    codec, dtype = _CODECS.get((tag, bits), ("", ""))
    adds_up = n_channels == 1 and width * 8 == bits and bytes_per_s == rate_hz * width and rate_hz in _RATES_HZ
    if not codec or not adds_up or not length or length % width or start + length > size:
        return None
    return Layout(start, length // width, dtype, codec, rate_hz)


def _mu_law() -> Samples:
    """What each byte means."""
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = ((((code & 15).astype(np.int32) << 3) + 132) << (code >> 4 & 7)) - 132
    return np.where(code & 128, -magnitude, magnitude).astype(np.int16)


def _a_law() -> Samples:
    """What each byte means."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    mantissa, segment = (code & 15).astype(np.int32) << 4, code >> 4 & 7
    magnitude = np.where(segment == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(segment.astype(np.int32) - 1, 0))
    return np.where(code & 128, magnitude, -magnitude).astype(np.int16)


_LAWS = {"pcm_mulaw": _mu_law(), "pcm_alaw": _a_law()}


class _Head:
    """The first bytes of an object as a source: chunks are looked for nowhere else."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size = data, len(data)

    def pread(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""
        return self._data[offset : offset + length]
