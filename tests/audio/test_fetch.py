"""Bytes from object stores: how many, in how many requests, and what happens when the store says no (F10–F12, F22)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_audio import encode, signal
from servers import S3Endpoint, connect, free_ports

from pipeline.audio.fetch import Fetcher, Ranges
from pipeline.audio.reader import AudioReader
from pipeline.audio.uri_policy import Location
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError
from pipeline.records import Recording
from pipeline.store import patience

MINUTES, WINDOW_S, SEAM_S = 32, 600.0, 8.0
FEW_MINUTES = 12  # two windows; the whole length only where there is time
BUDGET = 1.5  # bytes fetched over the object's size, all windows and seams together

# name -> (rate, container, codec, options, container options)
INDEXED: dict[str, tuple[int, str, str, dict[str, str], dict[str, str]]] = {
    "wav": (16000, "wav", "pcm_s16le", {}, {}),
    "flac": (16000, "flac", "flac", {}, {}),
    "mp3": (22050, "mp3", "libmp3lame", {"b": "64000", "compression_level": "9"}, {}),
    "opus": (48000, "ogg", "libopus", {"b": "32000", "compression_level": "0"}, {}),
    "webm": (48000, "webm", "libopus", {"b": "32000", "compression_level": "0"}, {}),
    "m4a": (22050, "mp4", "aac", {"b": "48000", "aac_coder": "fast"}, {}),
    "m4a with its index in front": (
        22050,
        "mp4",
        "aac",
        {"b": "48000", "aac_coder": "fast"},
        {"movflags": "faststart"},
    ),
    "ts": (22050, "mpegts", "aac", {"b": "48000", "aac_coder": "fast"}, {}),
}


@pytest.fixture(scope="module")
def bucket(s3_endpoint: S3Endpoint) -> str:
    connect(s3_endpoint).mkdirs("fetch-tests", exist_ok=True)
    return "fetch-tests"


def source(endpoint: S3Endpoint) -> SourceConfig:
    return SourceConfig(storage_options=endpoint.storage_options())


@pytest.mark.parametrize(
    ("name", "minutes"),
    [("opus", FEW_MINUTES), *(pytest.param(name, MINUTES, marks=pytest.mark.slow) for name in INDEXED)],
)
def test_all_windows_together_stay_within_the_budget(
    s3_endpoint: S3Endpoint, bucket: str, name: str, minutes: int, tmp_path: Path
) -> None:
    rate, container, codec, options, container_options = INDEXED[name]
    minute = signal(60, rate)
    data = encode(
        np.tile(minute, minutes), rate, container, codec, options=options, container_options=container_options
    )
    connect(s3_endpoint).pipe_file(f"{bucket}/{name}", data)
    (tmp_path / name).write_bytes(data)
    row, local = Recording("x", f"s3://{bucket}/{name}"), Recording("x", str(tmp_path / name))
    config = DecodeConfig(whole_object_bytes=0)
    came = 0
    with AudioReader(config, SourceConfig(), [str(tmp_path)]) as beside:
        duration_s = beside.probe(local).duration_s
        for start_s in np.arange(0, duration_s - 1, WINDOW_S):
            # A worker of its own for every window: nothing is remembered from the one before.
            with AudioReader(config, source(s3_endpoint), [f"s3://{bucket}"]) as reader:
                if start_s:
                    came += reader.read(row, start_s - SEAM_S / 2, start_s + SEAM_S / 2).report.fetched_bytes
                window = reader.read(row, start_s, min(start_s + WINDOW_S, duration_s))
                came += window.report.fetched_bytes
            expected = beside.read(local, start_s, min(start_s + WINDOW_S, duration_s))
            np.testing.assert_array_equal(window.samples, expected.samples)
    assert 1 <= came / len(data) <= BUDGET


def test_a_small_object_comes_once_for_all_its_windows(s3_endpoint: S3Endpoint, bucket: str) -> None:
    data = encode(signal(20, 16_000), 16_000, "flac", "flac")
    connect(s3_endpoint).pipe_file(f"{bucket}/small.flac", data)
    row = Recording("x", f"s3://{bucket}/small.flac")
    with AudioReader(DecodeConfig(), source(s3_endpoint), [f"s3://{bucket}"]) as reader:
        probe = reader.probe(row)
        came = [reader.read(row, at, at + 4).report.fetched_bytes for at in (0, 5, 10)]
        assert (probe.size_bytes, probe.duration_s) == (len(data), 20.0)
        assert probe.etag
        assert came == [0, 0, 0]  # the probe had brought it
        connect(s3_endpoint).pipe_file(f"{bucket}/small.flac", data[:-1])
        with pytest.raises(AudioError) as caught:
            reader.read(row, 0, 4, expect=(probe.size_bytes, probe.etag))
        assert caught.value.code == "input_changed"
        same_size = encode(signal(20, 16_000, seed=9), 16_000, "wav", "pcm_s16le")
        connect(s3_endpoint).pipe_file(f"{bucket}/small.flac", same_size)
        later = reader.read(row, 0, 4)  # without a plan to hold it against, the new object is read, not the old copy
        assert later.report.codec == "pcm_s16le"


@pytest.mark.parametrize(
    ("uri", "change", "code"),
    [
        ("s3://{bucket}/absent.wav", {}, "not_found"),
        ("s3://{bucket}/folder", {}, "not_found"),
        ("s3://elsewhere/a.wav", {}, "uri_refused"),
        ("s3://{bucket}/some.wav", {"key": "nobody", "secret": "wrong"}, "access_denied"),
        ("s3://{bucket}/some.wav", {"endpoint_url": "nowhere"}, "fetch_failed"),
        ("s3://{bucket}/empty.wav", {}, "empty_file"),
    ],
)
def test_the_store_says_no(
    s3_endpoint: S3Endpoint,
    bucket: str,
    uri: str,
    change: dict[str, str],
    code: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.01)
    filesystem = connect(s3_endpoint)
    filesystem.pipe_file(f"{bucket}/some.wav", b"RIFF")
    filesystem.pipe_file(f"{bucket}/folder/some.wav", b"RIFF")
    filesystem.pipe_file(f"{bucket}/empty.wav", b"")
    options = {**s3_endpoint.storage_options(), **change}
    if "endpoint_url" in change:
        options["endpoint_url"] = f"http://127.0.0.1:{free_ports(1)[0]}"
    config = SourceConfig(storage_options=options)
    with AudioReader(DecodeConfig(), config, [f"s3://{bucket}"]) as reader, pytest.raises(AudioError) as caught:
        reader.read(Recording("x", uri.format(bucket=bucket)), 0, 1)
    assert (caught.value.code, caught.value.stage) == (code, "decode" if code == "empty_file" else "fetch")
    assert "wrong" not in caught.value.message


def test_a_store_that_breaks_off_costs_the_object_alone(
    s3_endpoint: S3Endpoint, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object vanishes while it is being read by ranges."""
    data = encode(signal(120, 16_000), 16_000, "wav", "pcm_s16le")
    filesystem = connect(s3_endpoint)
    filesystem.pipe_file(f"{bucket}/vanishing.wav", data)
    filesystem.pipe_file(f"{bucket}/steady.wav", data)
    config = DecodeConfig(whole_object_bytes=0, range_bytes=4096)
    with AudioReader(config, source(s3_endpoint), [f"s3://{bucket}"]) as reader:
        row = Recording("x", f"s3://{bucket}/vanishing.wav")
        assert len(reader.read(row, 0, 1).samples) == 16_000
        open_ = Fetcher.open

        def open_and_lose(
            self: Fetcher, location: Location, expect: tuple[int | None, str | None] = (None, None)
        ) -> object:
            blob = open_(self, location, expect)
            filesystem.rm_file(f"{bucket}/vanishing.wav")
            return blob

        monkeypatch.setattr(Fetcher, "open", open_and_lose)
        with pytest.raises(AudioError) as caught:
            reader.read(row, 60, 100)
        assert caught.value.code == "not_found"
        monkeypatch.undo()
        assert len(reader.read(Recording("x", f"s3://{bucket}/steady.wav"), 60, 61).samples) == 16_000


def counting(data: bytes, log: list[tuple[int, int]]) -> Callable[[int, int], bytes]:
    def read(start: int, end: int) -> bytes:
        log.append((start, end))
        return data[start:end]

    return read


def fetched(log: list[tuple[int, int]]) -> int:
    return sum(end - start for start, end in log)


@settings(max_examples=200)
@given(
    st.integers(1, 5000),
    st.integers(1, 700),
    st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 900)), max_size=30),
)
def test_ranges_are_the_objects_own_bytes(size: int, block: int, reads: list[tuple[int, int]]) -> None:
    data = os.urandom(size)
    log: list[tuple[int, int]] = []
    ranges = Ranges(counting(data, log), size, block)
    for offset, length in reads:
        assert ranges.read(offset, length) == data[offset : offset + length]
    assert fetched(log) <= size  # the cache holds it all: nothing comes twice


def test_sequential_reading_takes_few_requests_and_little_more_than_it_needs() -> None:
    size, block = 64 * 2**20, 256 * 2**10
    log: list[tuple[int, int]] = []
    ranges = Ranges(counting(bytes(size), log), size, block)
    for offset in range(0, size // 2, 64 * 2**10):
        ranges.read(offset, 64 * 2**10)
    assert len(log) < 40
    assert fetched(log) < 1.15 * size / 2
    assert all(before[1] == after[0] for before, after in pairwise(log))


def test_jumping_about_reads_single_blocks() -> None:
    size, block = 64 * 2**20, 256 * 2**10
    log: list[tuple[int, int]] = []
    ranges = Ranges(counting(bytes(size), log), size, block)
    for offset in (50, 3, 40, 7, 22):
        ranges.read(offset * 2**20, 1000)
    assert [end - start for start, end in log] == [block] * 5


def test_the_cache_is_bounded() -> None:
    size, block = 128 * 2**20, 2**20
    ranges = Ranges(counting(bytes(size), []), size, block)
    for offset in range(0, size, block):
        ranges.read(offset, block)
    assert sum(len(part) for part in ranges._blocks.values()) <= 40 * 2**20


def test_a_short_answer_is_a_failure() -> None:
    ranges = Ranges(lambda start, end: b"x" * ((end - start) // 2), 10_000, 1000)
    with pytest.raises(AudioError, match="500 of 1000") as caught:
        ranges.read(0, 10)
    assert caught.value.code == "fetch_failed"


@pytest.fixture
def local_reader(tmp_path: Path) -> Iterator[AudioReader]:
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        yield reader


def test_local_files_are_told_apart_by_size_and_time(local_reader: AudioReader, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encode(signal(2, 16_000), 16_000, "wav", "pcm_s16le"))
    first = local_reader.probe(Recording("x", str(path)))
    assert first.etag == str(path.stat().st_mtime_ns)
    os.utime(path, ns=(1, 1))
    assert local_reader.probe(Recording("x", str(path))).etag == "1"
