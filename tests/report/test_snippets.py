"""Seconds of a recording as a data: address, through the real decoder process."""

from __future__ import annotations

import base64
import io
import socket
from pathlib import Path

import av
import numpy as np
import pytest
from servers import S3Endpoint

from pipeline.config import RunConfig
from pipeline.errors import ItemError
from pipeline.records import SAMPLE_RATE_HZ, Recording
from pipeline.report import snippets
from pipeline.report.doubts import Doubt
from pipeline.report.snippets import LONGEST_S, listening, mp3_address, reader_of


def tone(seconds: float, hz: float, rate_hz: int = 48_000) -> np.ndarray:
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (8000 * np.sin(2 * np.pi * hz * times)).astype(np.int16)


def write_wav(path: Path, samples: np.ndarray, rate_hz: int = 48_000) -> None:
    import wave

    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(samples.tobytes())


def heard(address: str | None) -> tuple[float, float]:
    """Seconds, and the strongest frequency, of a snippet."""
    assert address is not None
    kind, _, data = address.partition(",")
    assert kind == "data:audio/mpeg;base64"
    with av.open(io.BytesIO(base64.b64decode(data))) as media:
        frames = [frame.to_ndarray().reshape(-1) for frame in media.decode(audio=0)]
        assert (media.streams.audio[0].rate, media.streams.audio[0].channels) == (SAMPLE_RATE_HZ, 1)
    samples = np.concatenate(frames)
    spectrum = np.abs(np.fft.rfft(samples))
    return len(samples) / SAMPLE_RATE_HZ, float(np.argmax(spectrum) * SAMPLE_RATE_HZ / len(samples))


def doubt(uri: str, start_s: float, end_s: float, offset_s: float = 0.0) -> Doubt:
    return Doubt("x", start_s, end_s, "", None, None, None, None, (), uri, offset_s)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    samples = np.concatenate([tone(10, 440), tone(10, 1000), tone(20, 2000)])
    write_wav(tmp_path / "a.wav", samples)
    (tmp_path / "broken.wav").write_bytes(b"RIFF not really")
    return RunConfig(manifest=str(tmp_path / "manifest.jsonl"), output="/out")


def test_the_stretch_itself_is_heard(config: RunConfig, tmp_path: Path) -> None:
    uri = str(tmp_path / "a.wav")
    with listening(config.public(), config) as listen:
        short, shifted, long = listen(doubt(uri, 11, 14)), listen(doubt(uri, 1, 3, 20.0)), listen(doubt(uri, 22, 39))
        gone, broken = (
            listen(doubt(str(tmp_path / "gone.wav"), 0, 1)),
            listen(doubt(str(tmp_path / "broken.wav"), 0, 1)),
        )
        outside, behind = listen(doubt("/etc/passwd", 0, 1)), listen(doubt(uri, 90, 91))
    assert heard(short.address) == pytest.approx((3.5, 1000), rel=0.05)
    assert heard(shifted.address)[1] == pytest.approx(2000, rel=0.05)
    assert heard(long.address)[0] == pytest.approx(LONGEST_S, rel=0.02)
    assert (short.is_cut, long.is_cut) == (False, True)
    assert [one.address for one in (gone, broken, outside, behind)] == [None] * 4
    assert "(not_found)" in gone.reason
    assert "(bad_header)" in broken.reason
    assert "(uri_refused)" in outside.reason
    assert behind.reason == "The audio ends before this stretch."


def test_other_roots_may_be_named_for_an_archive_that_has_moved(config: RunConfig, tmp_path: Path) -> None:
    elsewhere = {**config.public(), "manifest": "/somewhere/else/manifest.jsonl"}
    stretch = doubt(str(tmp_path / "a.wav"), 1, 2)
    with listening(elsewhere, config) as listen:
        assert "(uri_refused)" in listen(stretch).reason
    moved = config.model_copy(update={"source": config.source.model_copy(update={"roots": [str(tmp_path)]})})
    with listening(elsewhere, moved) as listen:
        assert listen(stretch).address


def test_an_address_in_a_strangers_run_is_not_followed(
    config: RunConfig, moto_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's run.json names a store of the stranger's; our credentials must not go there."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.settimeout(0.0)
        options = {"endpoint_url": f"http://127.0.0.1:{stranger.getsockname()[1]}", "key": "ours", "secret": "too"}
        theirs = config.public()
        theirs["source"] |= {"roots": ["s3://bucket"], "storage_options": options}
        monkeypatch.setenv("AWS_ENDPOINT_URL", moto_endpoint.endpoint_url)
        ours = {"key": moto_endpoint.key, "secret": moto_endpoint.secret}
        mine = config.model_copy(update={"source": config.source.model_copy(update={"storage_options": ours})})
        with (
            reader_of(theirs, mine.decode, mine.source) as reader,
            pytest.raises(ItemError, match="There is no"),
        ):
            reader.read(Recording("x", "s3://bucket/a.wav"), 0.0, 1.0)
        with pytest.raises(BlockingIOError):
            stranger.accept()


def test_a_page_holds_only_so_much(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snippets, "MOST_BYTES", 30_000)
    with listening(config.public(), config) as listen:
        found = [listen(doubt(str(tmp_path / "a.wav"), 0, 4)) for _ in range(5)]
    assert [one.address is None for one in found] == [False, False, True, True, True]
    assert found[-1].reason == "The page holds as much audio as it may."


def test_twelve_seconds_are_small() -> None:
    noise = np.random.default_rng(0).integers(-9000, 9000, 12 * SAMPLE_RATE_HZ).astype(np.int16)
    assert len(mp3_address(noise)) < 70_000
