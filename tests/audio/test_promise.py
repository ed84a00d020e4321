"""An upload that broke off is partial, although nobody gave its length; a writer that could not know it promised nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from made_audio import encode, signal

from pipeline.audio.reader import AudioReader
from pipeline.audio.window import decode_window
from pipeline.config import ChunkConfig, DecodeConfig, PlanConfig, SourceConfig
from pipeline.records import DecodedWindow, Recording, Window

LENGTH_S, RATE_HZ = 20, 22_050
KINDS = {
    "wav": ("wav", "pcm_s16le", {}),
    "adpcm": ("wav", "adpcm_ima_wav", {}),
    "mp3": ("mp3", "libmp3lame", {}),
    "mp3 with tags": ("mp3", "libmp3lame", {"write_id3v1": "1"}),
    "mp3 without Xing": ("mp3", "libmp3lame", {"write_xing": "0"}),
    "flac": ("flac", "flac", {}),
}


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[AudioReader]:
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as opened:
        yield opened


def planned(reader: AudioReader, path: Path) -> DecodedWindow:
    """The object as the only window of a row that gives no duration."""
    recording = Recording("x", str(path))
    window = Window(recording, 0, 1, 0.0, reader.probe(recording).duration_s)
    return decode_window(reader, window, PlanConfig(), ChunkConfig(vad="none"), 30.0)[0]


def encoded(kind: str) -> bytes:
    container, codec, options = KINDS[kind]
    bit_rate = 64_000 if container == "mp3" else None
    return encode(signal(LENGTH_S, RATE_HZ), RATE_HZ, container, codec, bit_rate=bit_rate, container_options=options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_object_misses_nothing(kind: str, reader: AudioReader, tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(encoded(kind))
    window = planned(reader, tmp_path / "whole")
    assert window.failure is None
    assert window.end_s == pytest.approx(LENGTH_S, abs=0.1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "mp3 without Xing"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_half_an_object_says_what_it_lacks(kind: str, share: float, reader: AudioReader, tmp_path: Path) -> None:
    data = encoded(kind)
    (tmp_path / "cut").write_bytes(data[: int(len(data) * share)])
    window = planned(reader, tmp_path / "cut")
    assert window.end_s == pytest.approx(LENGTH_S * share, abs=0.5)
    assert window.failure is not None
    assert window.failure.code == "truncated"
    assert (window.spans[-1].kind, window.spans[-1].start_s) == ("failed", window.end_s)
    assert window.spans[-1].end_s == pytest.approx(LENGTH_S, abs=0.5)


@pytest.mark.parametrize("placeholder", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36])
def test_a_wav_from_a_pipe_promises_nothing(placeholder: int, reader: AudioReader, tmp_path: Path) -> None:
    data = bytearray(encoded("wav"))
    at = data.index(b"data") + 4
    data[at : at + 4] = placeholder.to_bytes(4, "little")
    data[4:8] = min(placeholder + 36, 0xFFFFFFFF).to_bytes(4, "little")
    (tmp_path / "pipe").write_bytes(data)
    window = planned(reader, tmp_path / "pipe")
    assert window.failure is None
    assert window.end_s == pytest.approx(LENGTH_S, abs=0.1)


def test_two_mp3_files_in_a_row_lack_nothing(reader: AudioReader, tmp_path: Path) -> None:
    (tmp_path / "two").write_bytes(encoded("mp3") + encoded("mp3"))
    assert planned(reader, tmp_path / "two").failure is None


def test_the_middle_of_an_object_is_not_judged_by_its_end(reader: AudioReader, tmp_path: Path) -> None:
    data = encoded("wav")
    (tmp_path / "cut").write_bytes(data[: len(data) // 2])
    audio = reader.read(Recording("x", str(tmp_path / "cut")), 2.0, 4.0)
    assert (audio.report.missing_s, len(audio.samples)) == (0.0, 32_000)
