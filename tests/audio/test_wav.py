"""Plain WAV without a decoder: the very samples and reports that the decoder gives, and nothing that is not plain."""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from damaged_audio import mutant
from made_audio import encode, signal

from pipeline.audio import wav
from pipeline.audio.ahead import Stretch
from pipeline.audio.fetch import Blob, Ranges
from pipeline.audio.reader import AudioReader
from pipeline.audio.sandbox import SampleBuffer
from pipeline.audio.wire import Request
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError
from pipeline.records import SPLIT, Recording

KINDS = {
    "pcm_s16le": (1, 16, "PCM_16"),
    "pcm_s32le": (1, 32, "PCM_32"),
    "pcm_f32le": (3, 32, "FLOAT"),
    "pcm_alaw": (6, 8, "ALAW"),
    "pcm_mulaw": (7, 8, "ULAW"),
}
NOISE = signal(2.0, 16_000)
PLAIN = encode(NOISE, 16_000, "wav", "pcm_s16le")


@pytest.fixture
def readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[AudioReader, AudioReader]]:
    """One that takes plain samples as they lie, and one that gives everything to its decoder."""
    plain, decoding = (AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) for _ in range(2))
    with plain, decoding:
        yield plain, Decoding(decoding)  # type: ignore[misc]


class Decoding:
    """A reader that finds no file plain."""

    def __init__(self, reader: AudioReader) -> None:
        self._reader = reader

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(wav, "read_layout", lambda _: None)
                return getattr(self._reader, name)(*arguments, **named)

        return call


def outcome(reader: AudioReader, recording: Recording, start_s: float = 0.0, end_s: float | None = None) -> Any:
    """Samples and report, without what may differ; or the code of the failure."""
    try:
        audio = reader.read(recording, start_s, end_s)
    except AudioError as error:
        return error.code
    return audio.samples.tolist(), dataclasses.replace(audio.report, decoder="", decode_s=0.0)


def length(reader: AudioReader, recording: Recording) -> Any:
    try:
        return reader.probe(recording)
    except AudioError as error:
        return error.code


def riff(samples: bytes, fmt: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt + before
    body += b"data" + struct.pack("<I", len(samples)) + samples + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


def described(codec: str, rate_hz: int, channels: int = 1) -> bytes:
    tag, bits, _ = KINDS[codec]
    width = bits // 8 * channels
    return struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * width, width, bits)


def source(data: bytes) -> Blob:
    return Blob.copy(data, None)


@pytest.mark.parametrize("codec", KINDS)
@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_samples_and_reports_are_those_of_the_decoder(
    readers: tuple[AudioReader, AudioReader], tmp_path: Path, codec: str, rate_hz: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, signal(9.7, rate_hz), rate_hz, KINDS[codec][2])
    plain, decoding = readers
    for channel in (None, 0, 1, SPLIT):
        recording = Recording("x", str(path), channel=channel)
        for start_s, end_s in ((0.0, None), (0.0, 9.7), (1.3, 4.7), (4.0, 20.0), (9.69, None), (30.0, 31.0)):
            assert outcome(plain, recording, start_s, end_s) == outcome(decoding, recording, start_s, end_s)
    late = Recording("x", str(path), offset_s=11.0)
    assert outcome(plain, late) == outcome(decoding, late) == "offset_past_end"
    assert length(plain, Recording("x", str(path))) == length(decoding, Recording("x", str(path)))
    assert plain.decoder_pid is None, "no decoder was needed"
    assert plain.read(Recording("x", str(path)), 0.0, 1.0).report.decoder == "none"
    assert decoding.read(Recording("x", str(path)), 0.0, 1.0).report.decoder == "libsndfile"


@pytest.mark.parametrize("codec", ["pcm_alaw", "pcm_mulaw"])
def test_every_byte_of_g711_means_what_it_does_to_the_decoder(
    readers: tuple[AudioReader, AudioReader], tmp_path: Path, codec: str
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(riff(bytes(range(256)) * 100, described(codec, 16_000)))
    assert outcome(readers[0], Recording("x", str(path))) == outcome(readers[1], Recording("x", str(path)))
    assert readers[0].decoder_pid is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, 1e-42, 2.5])
def test_numbers_that_are_none_are_those_of_the_decoder(
    readers: tuple[AudioReader, AudioReader], tmp_path: Path, value: float
) -> None:
    samples = signal(3.0, 16_000).astype("<f4")
    samples[1000:30_000:7] = value
    path = tmp_path / "a.wav"
    path.write_bytes(riff(samples.tobytes(), described("pcm_f32le", 16_000)))
    assert wav.read_layout(source(path.read_bytes())) is not None
    assert outcome(readers[0], Recording("x", str(path))) == outcome(readers[1], Recording("x", str(path)))


def test_mutants_that_pass_for_plain_are_what_the_decoder_makes_of_them(
    readers: tuple[AudioReader, AudioReader], tmp_path: Path
) -> None:
    """Damage of all kinds, and bytes changed in the header, where it decides."""
    random = np.random.default_rng(5)
    seeds = [
        PLAIN,
        riff(PLAIN[-32_000:], described("pcm_s16le", 16_000), b"LIST\x06\x00\x00\x00INFOab", b"id3 \x02\x00\x00\x00xy"),
    ]
    passed = 0
    for number in range(600):
        data = bytearray(seeds[number % 2])
        if number % 3:
            data[int(random.integers(0, 64))] = int(random.integers(0, 256))
        else:
            data = bytearray(mutant(bytes(data), random))
        blob = source(bytes(data))
        plain = bool(len(data)) and wav.read_layout(blob) is not None
        blob.close()
        if plain:
            passed += 1
            path = tmp_path / f"{number}.wav"
            path.write_bytes(data)
            recording = Recording("x", str(path))
            assert outcome(readers[0], recording) == outcome(readers[1], recording), number
            assert length(readers[0], recording) == length(readers[1], recording), number
    assert 50 < passed < 550, "some pass, some do not"


ODD = {
    "stereo": riff(bytes(64_000), described("pcm_s16le", 16_000, channels=2)),
    "24 bits": encode(signal(1.0, 16_000), 16_000, "wav", "pcm_s24le"),
    "8 bits": encode(signal(1.0, 16_000), 16_000, "wav", "pcm_u8"),
    "another codec": encode(signal(1.0, 16_000), 16_000, "wav", "adpcm_ima_wav"),
    "an extended header": riff(bytes(64_000), described("pcm_s16le", 16_000) + b"\x16\x00" + bytes(22)),
    "two headers": riff(bytes(64_000), described("pcm_s16le", 16_000), b"fmt \x10\x00\x00\x00" + described("pcm_f32le", 16_000)),
    "no header": riff(bytes(64_000), described("pcm_s16le", 16_000)).replace(b"fmt ", b"JUNK"),
    "an unknown chunk": riff(bytes(64_000), described("pcm_s16le", 16_000), b"ds64\x04\x00\x00\x00abcd"),
    "lists of samples": riff(bytes(64_000), described("pcm_s16le", 16_000), b"LIST\x04\x00\x00\x00wavl"),
    "a list that is too short": riff(bytes(64_000), described("pcm_s16le", 16_000), b"LIST\x02\x00\x00\x00IN"),
    "a note that is too short": riff(bytes(64_000), described("pcm_s16le", 16_000), b"bext\x0a\x00\x00\x00" + bytes(10)),
    "more samples behind the samples": riff(bytes(64_000), described("pcm_s16le", 16_000), b"", b"data\x04\x00\x00\x00abcd"),
    "half a note behind the samples": riff(bytes(64_000), described("pcm_s16le", 16_000), b"", b"JUNK\x09\x00\x00\x00abcd"),
    "an MP3 that calls itself PCM": riff(encode(NOISE, 16_000, "mp3", "libmp3lame"), described("pcm_s16le", 16_000)),
    "AC-3 that calls itself PCM": riff(encode(NOISE, 48_000, "ac3", "ac3"), described("pcm_s16le", 16_000)),
    "half a sample": riff(bytes(64_001), described("pcm_s16le", 16_000)),
    "no samples": riff(b"", described("pcm_s16le", 16_000)),
    "a rate that cannot be": riff(bytes(64_000), described("pcm_s16le", 7)),
    "a header that is far away": riff(bytes(64_000), described("pcm_s16le", 16_000), b"JUNK\x00\x20\x00\x00" + bytes(0x2000)),
    "bytes per second that are wrong": PLAIN[:28] + struct.pack("<I", 44_100) + PLAIN[32:],
    "cut off": PLAIN[:-100],
    "something behind it": PLAIN + b"more",
    "RF64": b"RF64" + PLAIN[4:],
    "big-endian": b"RIFX" + PLAIN[4:],
    "only a name": b"RIFF",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_is_not_plain_goes_to_the_decoder(
    readers: tuple[AudioReader, AudioReader], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "odd.wav"
    path.write_bytes(ODD[name])
    assert wav.read_layout(source(ODD[name])) is None
    assert outcome(readers[0], Recording("x", str(path))) == outcome(readers[1], Recording("x", str(path)))


def test_writers_of_all_kinds_are_understood(tmp_path: Path) -> None:
    """libavformat describes floats in 18 bytes, and puts its name in front of the samples."""
    for codec in ("pcm_s16le", "pcm_f32le", "pcm_alaw", "pcm_mulaw"):
        layout = wav.read_layout(source(encode(signal(2.0, 16_000), 16_000, "wav", codec)))
        assert layout is not None
        assert (layout.codec, layout.n_samples) == (codec, 32_000)


def test_notes_around_the_samples_do_no_harm() -> None:
    notes = b"LIST\x06\x00\x00\x00INFOabPEAK\x08\x00\x00\x00abcdabcdJUNK\x03\x00\x00\x00abc\x00"
    notes += b"bext" + struct.pack("<I", 602) + bytes(602)
    data = riff(bytes(64_000), described("pcm_s16le", 16_000), notes, b"LIST\x04\x00\x00\x00adtl")
    layout = wav.read_layout(source(data))
    assert layout == wav.Layout(data.index(b"data") + 8, 32_000, "<i2", "pcm_s16le", 16_000)


def test_an_endless_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(PLAIN)
    with AudioReader(DecodeConfig(max_audio_s=1.0), SourceConfig(), [str(tmp_path)]) as reader:
        with pytest.raises(AudioError) as caught:
            reader.read(Recording("x", str(tmp_path / "a.wav")), 0.0, None)
        assert caught.value.code == "audio_too_long"
        assert len(reader.read(Recording("x", str(tmp_path / "a.wav")), 0.5, 1.5).samples) == 16_000


def test_a_large_remote_object_is_read_where_it_was_asked_for() -> None:
    data = encode(signal(120.0, 16_000), 16_000, "wav", "pcm_s16le")
    asked: list[tuple[int, int]] = []

    def read_range(start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    blob = Blob(len(data), None, ranges=Ranges(read_range, len(data), 64 * 2**10))
    layout = wav.read_layout(blob)
    assert layout is not None
    buffer = SampleBuffer(10 * 16_000, 10 * 16_000)
    wav.answer(Request(start=50 * 16_000, end=60 * 16_000, limit=10**9), blob, layout, buffer)
    np.testing.assert_array_equal(
        buffer.samples(), np.frombuffer(data, "<i2", 10 * 16_000, layout.start + 2 * 50 * 16_000)
    )
    assert sum(end - start for start, end in asked) < 700_000


def test_a_file_that_is_cut_while_it_is_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(PLAIN)
    other = tmp_path / "b.wav"
    other.write_bytes(PLAIN)
    stretches = [Stretch(Recording("x", str(one)), 0.0, 2.0, (None, None), likely_s=2.0) for one in (other, path)]
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        reader.announce(stretches)
        assert len(reader.read(*stretches[0][:3]).samples) == 32_000  # both are open now
        os.truncate(path, 20_000)
        with pytest.raises(AudioError) as caught:
            reader.read(*stretches[1][:3])
    assert caught.value.code == "input_changed"


def test_many_plain_clips_are_not_all_opened_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(PLAIN)
    stretch = Stretch(Recording("x", str(tmp_path / "a.wav")), 0.0, 2.0, (None, None), likely_s=2.0)
    before = len(os.listdir("/proc/self/fd"))
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        reader.announce([stretch] * 500)
        for _ in range(500):
            assert len(reader.read(*stretch[:3]).samples) == 32_000
            assert len(os.listdir("/proc/self/fd")) < before + 40
    assert len(os.listdir("/proc/self/fd")) == before
