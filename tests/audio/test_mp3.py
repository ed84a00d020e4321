"""Frames of MPEG audio from headers alone, against what libavformat finds."""

from __future__ import annotations

import io
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_audio import encode, signal

from pipeline.audio import mp3

# name -> (rate, encoder options, container options)
KINDS: dict[str, tuple[int, int | None, dict[str, str], dict[str, str]]] = {
    "constant 44.1 kHz": (44100, 64000, {}, {}),
    "constant 16 kHz, small frames": (16000, 24000, {}, {}),
    "constant, no tag": (44100, 64000, {}, {"write_xing": "0"}),
    "constant, no tags at all": (22050, 32000, {}, {"write_xing": "0", "id3v2_version": "0"}),
    "variable": (44100, None, {"q": "5"}, {}),
    "variable, no tag": (24000, None, {"q": "7"}, {"write_xing": "0"}),
    "average": (32000, 56000, {"abr": "1"}, {}),
}


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind)
def file(request: pytest.FixtureRequest) -> bytes:
    rate, bit_rate, options, container_options = KINDS[request.param]
    samples = signal(12, rate)
    return encode(
        samples, rate, "mp3", "libmp3lame", bit_rate=bit_rate, options=options, container_options=container_options
    )


def reader(data: bytes) -> mp3.ReadAt:
    return lambda offset, length: data[max(0, offset) : max(0, offset) + length]


def packets(data: bytes) -> list[int]:
    """Byte offsets of libavformat's packets."""
    with av.open(io.BytesIO(data)) as container:
        return [packet.pos for packet in container.demux(audio=0) if packet.size]


def test_frames_lie_where_libavformat_finds_them(file: bytes) -> None:
    layout = mp3.read_layout(reader(file), len(file))
    assert layout is not None
    walked = [offset for offset, _ in mp3.walk(reader(file), layout.first, layout.end, layout.header)]
    assert walked == packets(file)
    for number in {0, 1, len(walked) // 3, len(walked) // 2, len(walked) - 2, len(walked) - 1}:
        assert mp3.locate(reader(file), layout, number) == walked[number]
    assert mp3.locate(reader(file), layout, len(walked) + 50) is None


def test_the_length_is_that_of_the_decoded_audio(file: bytes) -> None:
    layout = mp3.read_layout(reader(file), len(file))
    assert layout is not None
    with av.open(io.BytesIO(file)) as container:
        decoded = sum(frame.samples for frame in container.decode(audio=0))
    assert mp3.count_samples(reader(file), layout) == decoded


def test_a_constant_rate_needs_few_bytes() -> None:
    rate, bit_rate, _, container_options = KINDS["constant, no tag"]
    data = encode(
        np.tile(signal(12, rate), 10), rate, "mp3", "libmp3lame", bit_rate=bit_rate, container_options=container_options
    )
    taken = 0

    def read_at(offset: int, length: int) -> bytes:
        nonlocal taken
        got = data[offset : offset + length]
        taken += min(length, 4096, len(got))  # what a header needs of it
        return got

    layout = mp3.read_layout(read_at, len(data))
    assert layout is not None
    assert layout.constant
    taken = 0
    mp3.locate(read_at, layout, 4000)
    assert taken < 50_000


def test_a_rate_that_changes_later_is_not_constant() -> None:
    first = encode(signal(12, 44100), 44100, "mp3", "libmp3lame", bit_rate=64000, container_options={"write_xing": "0"})
    second = encode(
        signal(12, 44100),
        44100,
        "mp3",
        "libmp3lame",
        bit_rate=96000,
        container_options={"write_xing": "0", "id3v2_version": "0"},
    )
    data = first + second
    layout = mp3.read_layout(reader(data), len(data))
    assert layout is not None
    assert not layout.constant
    frames = [offset for offset, _ in mp3.walk(reader(data), layout.first, layout.end, layout.header)]
    assert mp3.locate(reader(data), layout, len(frames) - 10) == frames[-10]


def test_a_tag_that_does_not_fit_the_file_is_not_believed(file: bytes) -> None:
    half = file[: len(file) // 2]
    layout = mp3.read_layout(reader(half), len(half))
    assert layout is not None
    assert layout.n_frames is None
    length = mp3.count_samples(reader(half), layout)
    assert length == pytest.approx(
        mp3.count_samples(reader(file), mp3.read_layout(reader(file), len(file))) / 2, rel=0.15
    )  # type: ignore[arg-type]


@given(st.binary(max_size=4000))
def test_any_bytes_end(data: bytes) -> None:
    layout = mp3.read_layout(reader(data), len(data))
    if layout is not None:
        assert mp3.count_samples(reader(data), layout) >= 0
        offsets = [offset for offset, _ in mp3.walk(reader(data), layout.first, layout.end, layout.header)]
        assert all(a < b for a, b in pairwise(offsets))


@pytest.mark.parametrize("junk", [b"", b"\xff" * 1000, b"ID3" + b"\x7f" * 20, b"ID3\x04\x00\x00\x00\x00\x00\x00" * 200])
def test_junk_is_no_mp3(junk: bytes) -> None:
    assert mp3.read_layout(reader(junk), len(junk)) is None
