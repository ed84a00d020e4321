"""Time: a stretch is where the whole recording has it, for every codec, and silence stands where nothing was recorded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from made_audio import difference_db, encode, lag, signal

from pipeline.audio.reader import AudioReader
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.records import Recording

LENGTH_S = 40

# name -> (rate, container, codec, encoder options, container options, worst difference after a seek in dB)
# AAC fills bands with noise of its own, another one after a seek; everything else must come back to a rounding step.
EXACT = -60.0
CODECS: dict[str, tuple[int, str, str, dict[str, str], dict[str, str], float]] = {
    "wav 16k": (16000, "wav", "pcm_s16le", {}, {}, -200),
    "wav 22k": (22050, "wav", "pcm_s16le", {}, {}, EXACT),
    "wav mu-law 8k": (8000, "wav", "pcm_mulaw", {}, {}, EXACT),
    "wav float 44k": (44100, "wav", "pcm_f32le", {}, {}, EXACT),
    "wav adpcm": (16000, "wav", "adpcm_ms", {}, {}, EXACT),
    "w64": (16000, "w64", "pcm_s16le", {}, {}, -200),
    "aiff": (32000, "aiff", "pcm_s16be", {}, {}, EXACT),
    "caf": (24000, "caf", "pcm_s16le", {}, {}, EXACT),
    "flac 16k": (16000, "flac", "flac", {}, {}, -200),
    "flac 44k": (44100, "flac", "flac", {}, {}, EXACT),
    "flac ogg": (44100, "ogg", "flac", {}, {}, EXACT),
    "alac": (44100, "mp4", "alac", {}, {}, EXACT),
    "mp3 constant": (44100, "mp3", "libmp3lame", {"b": "64000"}, {}, EXACT),
    "mp3 constant 16k": (16000, "mp3", "libmp3lame", {"b": "24000"}, {}, EXACT),
    "mp3 variable": (44100, "mp3", "libmp3lame", {"q": "6"}, {}, EXACT),
    "mp3 without a tag": (22050, "mp3", "libmp3lame", {"b": "32000"}, {"write_xing": "0"}, EXACT),
    "mp3 mkv": (44100, "matroska", "libmp3lame", {"b": "64000"}, {}, EXACT),
    "mp2": (44100, "mp2", "mp2", {}, {}, EXACT),
    "opus": (48000, "ogg", "libopus", {"b": "24000"}, {}, EXACT),
    "opus webm": (48000, "webm", "libopus", {"b": "24000"}, {}, EXACT),
    "wma": (44100, "asf", "wmav2", {"b": "64000"}, {}, EXACT),
    "aac m4a": (44100, "mp4", "aac", {"b": "64000"}, {}, -25),
    "aac fragmented": (
        44100,
        "mp4",
        "aac",
        {"b": "64000"},
        {"movflags": "frag_keyframe+empty_moov", "frag_duration": "2000000"},
        -25,
    ),
    "aac adts": (44100, "adts", "aac", {"b": "64000"}, {}, -25),
    "aac ts": (44100, "mpegts", "aac", {"b": "64000"}, {}, -25),
    "ac3": (48000, "ac3", "ac3", {}, {}, -25),
}

# Encoders look ahead; these containers do not say how far.
DELAYS_UNTOLD = {"mp3 without a tag", "mp2", "wma", "aac fragmented", "aac adts", "aac ts", "ac3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audio")


@pytest.fixture(scope="module")
def reader(folder: Path) -> Iterator[AudioReader]:
    with AudioReader(DecodeConfig(), SourceConfig(), [str(folder)]) as reader:
        yield reader


@pytest.fixture(scope="module", params=CODECS, ids=lambda name: name.replace(" ", "-"))
def case(request: pytest.FixtureRequest, folder: Path) -> tuple[Recording, float]:
    rate, container, codec, options, container_options, worst_db = CODECS[request.param]
    path = folder / f"{request.param}.bin"
    path.write_bytes(
        encode(signal(LENGTH_S, rate), rate, container, codec, options=options, container_options=container_options)
    )
    return Recording("x", str(path)), worst_db


def test_a_stretch_is_that_of_the_whole(reader: AudioReader, case: tuple[Recording, float]) -> None:
    recording, worst_db = case
    whole = reader.read(recording, 0, None).samples
    assert len(whole) == pytest.approx(
        LENGTH_S * 16_000, abs=2500
    )  # priming and padding where the container hides neither
    for start_s, end_s in ((0, 2.5), (1.003, 3.25), (9.87, 15.0), (20.0, 28.0001), (33.3333, 39.1)):
        part = reader.read(recording, start_s, end_s)
        wanted = whole[round(start_s * 16_000) : round(end_s * 16_000)]
        assert len(part.samples) == len(wanted)
        assert lag(wanted, part.samples) == 0
        assert difference_db(wanted, part.samples) <= worst_db
        assert part.report.warnings == ()
    tail = reader.read(recording, 37.5, None)
    assert len(tail.samples) == len(whole) - 37.5 * 16_000


def test_the_same_call_gives_the_same_bits_in_any_process(
    reader: AudioReader, case: tuple[Recording, float], folder: Path
) -> None:
    recording, _ = case
    first = reader.read(recording, 12.34, 17.0).samples
    reader.read(recording, 0, 1.0)
    with AudioReader(DecodeConfig(), SourceConfig(), [str(folder)]) as another:
        np.testing.assert_array_equal(another.read(recording, 12.34, 17.0).samples, first)
    np.testing.assert_array_equal(reader.read(recording, 12.34, 17.0).samples, first)


def test_the_length_is_known_without_decoding(reader: AudioReader, case: tuple[Recording, float]) -> None:
    recording, _ = case
    decoded_s = len(reader.read(recording, 0, None).samples) / 16_000
    assert reader.probe(recording).duration_s == pytest.approx(decoded_s, abs=0.06)


def test_audio_is_where_it_was_recorded(reader: AudioReader, case: tuple[Recording, float]) -> None:
    recording, _ = case
    name = Path(recording.uri).stem
    recorded = soxr.resample(signal(LENGTH_S, CODECS[name][0]), CODECS[name][0], 16_000)
    late = lag(recorded, reader.read(recording, 0, None).samples)
    if name in DELAYS_UNTOLD:
        assert 0 < late < 0.06 * 16_000
    else:
        assert late == 0


def test_vorbis_by_libsndfile(reader: AudioReader, folder: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, signal(LENGTH_S, 44100), 44100, format="OGG", subtype="VORBIS")
    (folder / "vorbis.bin").write_bytes(buffer.getvalue())
    recording = Recording("x", str(folder / "vorbis.bin"))
    whole = reader.read(recording, 0, None).samples
    part = reader.read(recording, 22.0, 30.0).samples
    assert difference_db(whole[22 * 16_000 : 30 * 16_000], part) < EXACT


@pytest.mark.parametrize(("container", "rate"), [("matroska", 48000), ("webm", 48000)])
def test_a_pause_in_the_time_stamps_is_silence(reader: AudioReader, folder: Path, container: str, rate: int) -> None:
    path = folder / f"pause-{container}.bin"
    path.write_bytes(encode(signal(20, rate), rate, container, "libopus", gap=(8.0, 5.0)))
    recording = Recording("x", str(path))
    audio = reader.read(recording, 0, None)
    assert len(audio.samples) == pytest.approx(25 * 16_000, abs=800)
    assert audio.report.warnings == ("gaps_filled:1",)
    assert np.abs(audio.samples[round(8.3 * 16_000) : round(12.9 * 16_000)]).max() == 0
    assert np.abs(audio.samples[13 * 16_000 : 14 * 16_000]).max() > 500
    part = reader.read(recording, 14.0, 20.0).samples
    assert difference_db(audio.samples[14 * 16_000 : 20 * 16_000], part) < EXACT
    across = reader.read(recording, 6.0, 15.0).samples
    assert difference_db(audio.samples[6 * 16_000 : 15 * 16_000], across) < EXACT


def test_a_late_start_is_silence(reader: AudioReader, folder: Path) -> None:
    path = folder / "late.bin"
    path.write_bytes(encode(signal(10, 48000), 48000, "matroska", "libopus", start_s=3.0))
    recording = Recording("x", str(path))
    audio = reader.read(recording, 0, None)
    assert np.abs(audio.samples[: round(2.9 * 16_000)]).max() == 0
    assert np.abs(audio.samples[round(3.1 * 16_000) :]).max() > 500
    assert len(audio.samples) == pytest.approx(13 * 16_000, abs=800)
    assert difference_db(audio.samples[2 * 16_000 : 9 * 16_000], reader.read(recording, 2.0, 9.0).samples) < EXACT


def test_a_damaged_flac_keeps_its_time(reader: AudioReader, folder: Path) -> None:
    data = bytearray(encode(signal(20, 16000), 16000, "flac", "flac"))
    third = len(data) // 3
    data[third : third + 20_000] = bytes(20_000)
    path = folder / "damaged.bin"
    path.write_bytes(data)
    clean = (signal(20, 16000) * 32768).round().astype(np.int16)
    audio = reader.read(Recording("x", str(path)), 0, None)
    assert any(warning.startswith(("decode_errors", "gaps_filled")) for warning in audio.report.warnings)
    assert audio.report.decoder == "pyav"
    assert abs(len(audio.samples) - 20 * 16_000) < 1600
    assert lag(clean[-80_000:], audio.samples[-80_000:]) == 0
