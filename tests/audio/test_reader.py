"""Reading whole objects: formats, hostile files, odd files, rows that ask for the impossible."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_audio import difference_db, encode, lag, signal

from pipeline.audio.reader import AudioReader
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError
from pipeline.records import DecodedAudio, Recording, Samples

# Where libavformat's own time line, which we keep, is longer than what the ffmpeg program writes: it drops silence at the start.
STARTS_LATE = {"audio_delayed_start.mp4": 2.936, "vorbis.webm": 0.016, "wma.wma": 0.064}


@pytest.fixture(scope="module")
def reader() -> Iterator[AudioReader]:
    with AudioReader(DecodeConfig(timeout_s=20), SourceConfig(), ["/"]) as reader:
        yield reader


def files(folder: str) -> list[str]:
    """Names for parameters, where the shared material is; the tests skip where it is not."""
    shared = Path(os.environ.get("QUARRY_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    names = [path.name for path in (shared / "data" / "f" / folder).glob("*") if path.suffix != ".json"]
    return sorted(names) or ["absent"]


def by_ffmpeg(path: Path) -> Samples:
    """What the ffmpeg program makes of a file: mean of the channels, 16 kHz."""
    command = [
        "ffmpeg",
        "-nostdin",
        "-v",
        "fatal",
        "-i",
        str(path),
        "-map",
        "0:a:0",
        "-f",
        "s16le",
        "-ar",
        "16000",
        "-",
    ]
    channels = [
        "ffprobe",
        "-v",
        "fatal",
        "-select_streams",
        "a:0",
        "-show_entries",
        "stream=channels",
        "-of",
        "csv=p=0",
        str(path),
    ]
    n_channels = int(subprocess.run(channels, capture_output=True, check=True).stdout.split()[0].strip(b","))
    raw = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16)
    return raw.reshape(-1, n_channels).mean(axis=1).astype(np.int16)


@pytest.mark.parametrize("name", files("formats"))
def test_formats_are_what_ffmpeg_hears(reader: AudioReader, shared_data: Path, name: str) -> None:
    path = shared_data / "f" / "formats" / name
    audio = reader.read(Recording("x", str(path)), 0, None)
    probe = reader.probe(Recording("x", str(path)))
    assert audio.samples.dtype == np.int16
    assert audio.report.decoded_s == len(audio.samples) / 16_000
    assert audio.report.decoder in ("pyav", "libsndfile", "none")
    assert probe.duration_s == pytest.approx(audio.report.decoded_s, abs=0.13)  # a frame or two of padding
    assert probe.size_bytes == path.stat().st_size
    assert (probe.rate_hz > 0, probe.channels > 0, probe.codec != "") == (True, True, True)
    assert audio.report.warnings == (("antiphase",) if "antiphase" in name else ())
    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg program to compare with")
    heard = by_ffmpeg(path)
    if "antiphase" in name:
        heard = by_ffmpeg(path.with_name("pcm_s16le_16k.wav"))
    late = round(STARTS_LATE.get(name, 0) * 16_000)
    ours = audio.samples[late:]
    assert abs(len(ours) - len(heard)) <= 1100  # priming and padding: up to an AAC frame
    shift = lag(heard, ours)
    assert abs(shift) <= 110, f"{shift} samples late"  # ffmpeg programs before 7 keep some of the priming
    n = min(len(ours), len(heard)) - abs(shift)
    a, b = heard[max(0, -shift) :][:n], ours[max(0, shift) :][:n]
    assert difference_db(a, b) < -15  # a fraction of a sample of shift is left


def outcome(reader: AudioReader, path: Path) -> DecodedAudio | AudioError:
    try:
        return reader.read(Recording("x", str(path)), 0, None)
    except AudioError as error:
        return error


@pytest.mark.parametrize("name", files("hostile"))
def test_hostile_files_end_as_expected(reader: AudioReader, shared_data: Path, name: str) -> None:
    path = shared_data / "f" / "hostile" / name
    expected = json.loads((path.parent / "EXPECT.json").read_text()).get(name, "text")
    ended = outcome(reader, path)
    if isinstance(ended, AudioError):
        assert "error" in expected or "limit" in expected
        assert ended.code in expected_codes(name)
        assert 10 < len(ended.message) <= 500
        assert ended.message.endswith(".")
        assert str(path) not in ended.message
        return
    assert not expected.startswith("error") or " or " in expected, f"{name} gave {len(ended.samples)} samples"
    assert len(ended.samples) < 30 * 16_000
    if expected == "empty: 0 s":
        assert len(ended.samples) == 0
        assert ended.report.warnings == ("no_samples",)


def expected_codes(name: str) -> set[str]:
    """The codes that say what is wrong with a hostile file."""
    exact = {
        "empty.mp3": {"empty_file"},
        "wav_sr1hz.wav": {"audio_too_long"},
        "video_only_no_audio.mp4": {"no_audio_stream"},
        "wav_fmt_unknown_0x9999.wav": {"unsupported_codec"},
        "wav_bits0.wav": {"unsupported_codec", "bad_header"},
    }
    no_audio = ("html", "random", "hls", "concat", "dash", "sdp", "subtitle", "zip", "elf", "png")
    if name.startswith(no_audio):
        return {"not_audio"}
    return exact.get(name, {"bad_header", "no_audio_stream", "decode_error"})


@pytest.mark.parametrize("name", files("thirdparty"))
def test_odd_files_never_hang_or_crash(reader: AudioReader, shared_data: Path, name: str) -> None:
    path = shared_data / "f" / "thirdparty" / name
    ended = outcome(reader, path)
    if isinstance(ended, AudioError):
        assert ended.code in ("bad_header", "not_audio", "decode_error", "unsupported_codec")
    else:
        assert len(ended.samples) < 20 * 16_000


def written(folder: Path, data: bytes, name: str = "a.wav") -> Recording:
    (folder / name).write_bytes(data)
    return Recording("x", str(folder / name))


@pytest.fixture(scope="module")
def stereo() -> bytes:
    return encode(np.stack([signal(4, 16_000), 0.5 * signal(4, 16_000, seed=1)]), 16_000, "wav", "pcm_s16le")


def test_a_channel_can_be_chosen(reader: AudioReader, tmp_path: Path, stereo: bytes) -> None:
    row = written(tmp_path, stereo)
    mix = reader.read(row, 0, None).samples.astype(int)
    left, right = (reader.read(Recording("x", row.uri, channel=c), 0, None).samples.astype(int) for c in (0, 1))
    assert np.abs(mix - (left + right) / 2).max() <= 0.5
    with pytest.raises(AudioError, match="channel 2") as caught:
        reader.read(Recording("x", row.uri, channel=2), 0, None)
    assert caught.value.code == "no_such_channel"


def test_the_offset_moves_the_origin(reader: AudioReader, tmp_path: Path, stereo: bytes) -> None:
    row = written(tmp_path, stereo)
    whole = reader.read(row, 0, None).samples
    later = Recording("x", row.uri, offset_s=1.5)
    np.testing.assert_array_equal(reader.read(later, 0, None).samples, whole[24_000:])
    part = reader.read(later, 0.25, 1.0)
    np.testing.assert_array_equal(part.samples, whole[28_000:40_000])
    assert (part.start_s, part.report.expected_s, part.report.decoded_s) == (0.25, 0.75, 0.75)
    assert reader.probe(later).duration_s == pytest.approx(2.5)
    behind = Recording("x", row.uri, offset_s=9.0)
    for ask in (
        lambda: reader.probe(behind),
        lambda: reader.read(behind, 0, None),
        lambda: reader.read(behind, 0, 1.0),
    ):
        with pytest.raises(AudioError, match=r"9\.0 s") as caught:
            ask()
        assert caught.value.code == "offset_past_end"


def test_a_stretch_behind_the_end_is_empty_and_says_so(reader: AudioReader, tmp_path: Path, stereo: bytes) -> None:
    row = written(tmp_path, stereo)
    audio = reader.read(row, 10.0, 12.0)
    assert len(audio.samples) == 0
    assert audio.report.warnings == ("no_samples",)
    assert audio.report.expected_s == 2.0
    across = reader.read(row, 3.5, 5.0)
    assert (len(across.samples), across.report.expected_s) == (8000, 1.5)


def test_input_drift_is_refused(reader: AudioReader, tmp_path: Path, stereo: bytes) -> None:
    row = written(tmp_path, stereo)
    probe = reader.probe(row)
    assert len(reader.read(row, 0, 1, expect=(probe.size_bytes, probe.etag)).samples) == 16_000
    written(tmp_path, stereo[:-2] + b"\1\1")
    for expect in ((None, probe.etag), (probe.size_bytes + 1, None)):
        with pytest.raises(AudioError) as caught:
            reader.read(row, 0, 1, expect=expect)
        assert (caught.value.code, caught.value.stage) == ("input_changed", "fetch")


@pytest.mark.parametrize(
    ("make", "code"), [("folder", "uri_refused"), ("pipe", "uri_refused"), ("nothing", "not_found")]
)
def test_what_is_no_regular_file_is_refused_at_once(reader: AudioReader, tmp_path: Path, make: str, code: str) -> None:
    path = tmp_path / "x.wav"
    if make == "folder":
        path.mkdir()
    elif make == "pipe":
        os.mkfifo(path)
    with pytest.raises(AudioError) as caught:
        reader.read(Recording("x", str(path)), 0, None)
    assert caught.value.code == code


def test_names_of_any_kind(reader: AudioReader, tmp_path: Path, stereo: bytes) -> None:
    for name in ("with space.wav", "quote'\".wav", "обзор.mp3", "会議.txt", "-i.wav", "%s%n.wav", "a;b|c.wav", "noext"):
        assert len(reader.read(written(tmp_path, stereo, name), 0, 0.5).samples) == 8000


def test_the_caps_hold(tmp_path: Path, stereo: bytes) -> None:
    row = written(tmp_path, stereo)
    with AudioReader(DecodeConfig(max_audio_s=3.0), SourceConfig(), [str(tmp_path)]) as reader:
        for ask in (lambda: reader.read(row, 0, None), lambda: reader.probe(row), lambda: reader.read(row, 0, 3.5)):
            with pytest.raises(AudioError, match="max_audio_s") as caught:
                ask()
            assert caught.value.code == "audio_too_long"
        assert len(reader.read(row, 2.0, 4.0).samples) == 32_000  # a stretch of it may be had
    with AudioReader(DecodeConfig(max_object_bytes=1000), SourceConfig(), [str(tmp_path)]) as reader:
        with pytest.raises(AudioError, match="max_object_bytes") as caught:
            reader.read(row, 0, 1)
        assert caught.value.code == "object_too_large"
