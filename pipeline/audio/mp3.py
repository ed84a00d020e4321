"""Where the frames of an MPEG audio file (layer II or III) lie, from frame headers alone. Decodes nothing.

libavformat has no index for such files: its seek reads from the start. Here the frame that holds a sample is found by arithmetic
where the bit rate is constant (and proven by the headers that stand there), and by walking the headers where it is not: walking
needs every byte before the frame, so windows of a variable-rate object cost reads from its start.

Frame headers: ISO/IEC 11172-3 §2.4.1.3, 13818-3. The Xing/Info/LAME tag: the LAME project's "MP3 Info Tag rev 1" description.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

ReadAt = Callable[[int, int], bytes]

_READ_BYTES = 2**18
_CHAIN = 4  # headers in a row that prove a frame
_DECODER_DELAY = 529  # samples a layer III decoder is late: the tag's delay does not count them

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version bits
_V1_L3 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_V1_L2 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


@dataclass(frozen=True, slots=True)
class Header:
    """One frame header."""

    rate_hz: int
    kbps: int
    n_bytes: int
    n_samples: int
    mono: bool
    version: int
    layer: int

    def like(self, other: Header) -> bool:
        """Whether both can stand in one stream."""
        return (self.rate_hz, self.version, self.layer) == (other.rate_hz, other.version, other.layer)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the start and end of the file say. Offsets are bytes; `skip` and `pad` are samples to drop at either end."""

    first: int  # the first frame with audio
    end: int  # behind the last frame
    header: Header
    skip: int = 0
    pad: int = 0
    n_frames: int | None = None  # from the tag, if it fits the file
    constant: bool = False


@dataclass(frozen=True, slots=True)
class _Tag:
    n_frames: int | None
    n_bytes: int | None
    skip: int
    pad: int


def parse_header(data: bytes, at: int = 0) -> Header | None:
    """The frame header at `at`, or None."""
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[at + 1] >> 3 & 3, data[at + 1] >> 1 & 3
    kbps_index, rate_index, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer not in (1, 2) or kbps_index in (0, 15) or rate_index == 3:
        return None
    rate = _RATES[version][rate_index]
    kbps = (_V2 if version != 3 else _V1_L3 if layer == 1 else _V1_L2)[kbps_index]
    n_samples = 576 if layer == 1 and version != 3 else 1152
    n_bytes = n_samples * kbps * 125 // rate + padding
    return Header(rate, kbps, n_bytes, n_samples, data[at + 3] >> 6 == 3, version, layer)


def read_layout(read_at: ReadAt, size: int) -> Layout | None:
    """Where the audio begins and ends; None where no chain of frames is found near the start."""
    begin = _after_tags(read_at)
    first = _find_frame(read_at, begin, size, None)
    if first is None:
        return None
    data = read_at(first, 2**12)
    header = parse_header(data)
    assert header is not None
    end = _before_tags(read_at, size)
    tag = _parse_tag(data[: header.n_bytes], header)
    if tag is None:
        return _judge(read_at, Layout(first, end, header))
    start = first + header.n_bytes
    inner = parse_header(read_at(start, 4)) or header  # the tag's own frame may claim another bit rate
    whole = tag.n_bytes is None or abs(tag.n_bytes - (end - first)) <= 2 * header.n_bytes
    plausible = tag.n_frames is not None and tag.n_frames * 24 <= end - start <= tag.n_frames * 2000
    return _judge(read_at, Layout(start, end, inner, tag.skip, tag.pad, tag.n_frames if whole and plausible else None))


def count_samples(read_at: ReadAt, layout: Layout) -> int:
    """Samples a decoder gives for the whole file: from the tag, by arithmetic, or by walking the headers."""
    n_frames = layout.n_frames
    if n_frames is None and layout.constant:
        n_frames = _constant_length(read_at, layout)
    if n_frames is None:
        n_frames = sum(1 for _ in walk(read_at, layout.first, layout.end, layout.header))
    pad = layout.pad if layout.n_frames is not None else 0  # a cut file has lost its padding
    return max(0, n_frames * layout.header.n_samples - layout.skip - pad)


def missing_s(read_at: ReadAt, size: int) -> float:
    """Seconds that the tag promises behind the end of the file; 0 without a tag that can be believed."""
    first = _find_frame(read_at, _after_tags(read_at), size, None)
    data = b"" if first is None else read_at(first, 2**12)
    header = parse_header(data)
    tag = _parse_tag(data[: header.n_bytes], header) if header else None
    if first is None or header is None or tag is None or not tag.n_frames or not tag.n_bytes:
        return 0.0
    there = _before_tags(read_at, size) - first
    plausible = tag.n_frames * 24 <= tag.n_bytes <= tag.n_frames * 2000
    if not plausible or there >= tag.n_bytes - 2 * header.n_bytes:
        return 0.0
    return tag.n_frames * header.n_samples / header.rate_hz * (1 - there / tag.n_bytes)


def locate(read_at: ReadAt, layout: Layout, frame: int) -> int | None:
    """Byte offset of frame number `frame` (0: the first with audio); None behind the end."""
    if layout.constant:
        guess = layout.first + frame * _mean_bytes(layout)
        # An encoder that pads by its own rule may be a byte or two off: far less than a frame.
        found = _find_frame(read_at, max(layout.first, int(guess) - 3), layout.end, layout.header, within=8)
        if found is not None:
            return found
    for number, (offset, _) in enumerate(walk(read_at, layout.first, layout.end, layout.header)):
        if number == frame:
            return offset
    return None


def walk(read_at: ReadAt, offset: int, end: int, like: Header) -> Iterator[tuple[int, Header]]:
    """Every frame from `offset` on, in bounded memory; bytes between frames are skipped."""
    base, data = offset, b""
    while offset + 4 <= end:
        at = offset - base
        if at + 4 > len(data):
            base, at, data = offset, 0, read_at(offset, min(_READ_BYTES, end - offset))
        header = parse_header(data, at)
        if header is None or not header.like(like):
            found = _find_frame(read_at, offset + 1, end, like, within=end - offset)
            if found is None:
                return
            offset = found
            continue
        yield offset, header
        offset += header.n_bytes


def _mean_bytes(layout: Layout) -> float:
    header = layout.header
    return header.n_samples * header.kbps * 125 / header.rate_hz


def _constant_length(read_at: ReadAt, layout: Layout) -> int | None:
    """Frames in a file of constant rate, if the last ones stand where they must."""
    mean = _mean_bytes(layout)
    count = round((layout.end - layout.first) / mean)
    probe = max(0, count - 8)
    found = _find_frame(
        read_at, max(layout.first, layout.first + int(probe * mean) - 3), layout.end, layout.header, within=8
    )
    if found is None:
        return None
    return probe + sum(1 for _ in walk(read_at, found, layout.end, layout.header))


def _judge(read_at: ReadAt, layout: Layout) -> Layout:
    """The layout, marked constant where the first frames are alike and the last ones stand where arithmetic puts them."""
    frames = islice(walk(read_at, layout.first, layout.end, layout.header), 100)
    alike = len({frame.kbps for _, frame in frames}) == 1
    return replace(layout, constant=alike and _constant_length(read_at, layout) is not None)


def _find_frame(read_at: ReadAt, start: int, end: int, like: Header | None, within: int = 2**16) -> int | None:
    """The first offset in [start, start + within) where a chain of frames begins."""
    offset, stop = start, min(end, start + within)
    while offset < stop:
        data = read_at(offset, min(_READ_BYTES, stop - offset + 8192))
        limit = min(len(data), stop - offset)
        at = data.find(b"\xff", 0, limit)
        while at >= 0:
            if _is_chain(read_at, data, offset, at, end, like):
                return offset + at
            at = data.find(b"\xff", at + 1, limit)
        if not data:
            return None
        offset += limit
    return None


def _is_chain(read_at: ReadAt, data: bytes, base: int, at: int, end: int, like: Header | None) -> bool:
    for _ in range(_CHAIN):
        header = parse_header(data, at) or parse_header(read_at(base + at, 4))
        if header is None or (like is not None and not header.like(like)):
            return False
        like, at = header, at + header.n_bytes
        if base + at + 4 > end:
            return base + at <= end + header.n_bytes
    return True


def _after_tags(read_at: ReadAt) -> int:
    """The offset behind ID3v2 tags."""
    offset = 0
    while (head := read_at(offset, 10))[:3] == b"ID3" and len(head) == 10:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        offset += 10 + size + (10 if head[5] & 0x10 else 0)
    return offset


def _before_tags(read_at: ReadAt, size: int) -> int:
    """The offset of an ID3v1 tag, or the end."""
    return size - 128 if size > 128 and read_at(size - 128, 3) == b"TAG" else size


def _parse_tag(frame: bytes, header: Header) -> _Tag | None:
    """What a Xing or Info tag says, if the frame is one."""
    side = (17 if header.mono else 32) if header.version == 3 else (9 if header.mono else 17)
    at = 4 + side
    if header.layer != 1 or frame[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags, at = int.from_bytes(frame[at + 4 : at + 8]), at + 8
    n_frames = n_bytes = None
    if flags & 1:
        n_frames, at = int.from_bytes(frame[at : at + 4]), at + 4
    if flags & 2:
        n_bytes, at = int.from_bytes(frame[at : at + 4]), at + 4
    at += (100 if flags & 4 else 0) + (4 if flags & 8 else 0)
    if frame[at : at + 4] not in (b"LAME", b"Lavf", b"Lavc"):
        return _Tag(n_frames, n_bytes, 0, 0)
    delays = int.from_bytes(frame[at + 21 : at + 24])
    # libavformat drops the tag's delay and the decoder's own, and gives the latter back at the end.
    return _Tag(n_frames, n_bytes, (delays >> 12) + _DECODER_DELAY, max(0, (delays & 0xFFF) - _DECODER_DELAY))
