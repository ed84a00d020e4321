"""A window of a recording: neighbours tile the recording to the sample, and what is missing is said."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.reader import AudioReader
from pipeline.audio.vad import speech_spans
from pipeline.audio.window import _speech_s, decode_window
from pipeline.config import ChunkConfig, DecodeConfig, PlanConfig, SourceConfig
from pipeline.errors import AudioError
from pipeline.records import Recording, Samples, Window

RATE = 16_000
PLAN = PlanConfig(window_s=60, overlap_s=8)
CHUNKS = ChunkConfig(vad="none")


def speechlike(length_s: float) -> Samples:
    """Noise that swells and fades five times a second, quieter now and then: places to cut."""
    random = np.random.default_rng(7)
    time_s = np.arange(int(length_s * RATE)) / RATE
    envelope = (0.6 + 0.4 * np.sin(2 * np.pi * 5 * time_s)) * (0.2 + (np.sin(2 * np.pi * time_s / 3.7) > -0.5))
    return (random.standard_normal(len(time_s)) * envelope * 4000).clip(-32768, 32767).astype(np.int16)


@pytest.fixture
def whole() -> Samples:
    return speechlike(150.0)


@pytest.fixture
def recording(whole: Samples, tmp_path: Path) -> Recording:
    soundfile.write(tmp_path / "long.flac", whole, RATE)
    return Recording("long", str(tmp_path / "long.flac"))


@pytest.fixture
def reader(tmp_path: Path) -> AudioReader:
    return AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)])


def windows(recording: Recording, length_s: float, count: int, **fields: object) -> list[Window]:
    edges = [length_s * n / count for n in range(count + 1)]
    return [Window(recording, n, count, edges[n], edges[n + 1], **fields) for n in range(count)]  # type: ignore[arg-type]


def test_neighbours_meet_at_the_same_sample(reader: AudioReader, recording: Recording, whole: Samples) -> None:
    with reader:
        decoded = [decode_window(reader, window, PLAN, CHUNKS, 30.0) for window in windows(recording, 150.0, 3)]
    assert np.array_equal(np.concatenate([samples for _, samples, _ in decoded]), whole)
    for (left, _, _), (right, _, _) in pairwise(decoded):
        assert left.end_s == pytest.approx(right.start_s, abs=1e-9)
        assert left.end_s % 50 != 0, "the cut fell on the planned boundary, not on a quiet place"


def test_chunks_and_spans_cover_the_window_once(reader: AudioReader, recording: Recording) -> None:
    config = ChunkConfig(vad="energy")
    with reader:
        window, samples, bounds = decode_window(reader, windows(recording, 150.0, 1)[0], PLAN, config, 30.0)
    pieces = [(start / RATE, stop / RATE) for start, stop, *_ in bounds] + [(s.start_s, s.end_s) for s in window.spans]
    reached = 0.0
    for start, end in sorted(pieces):
        assert start == pytest.approx(reached, abs=1e-9)
        reached = end
    assert reached == pytest.approx(len(samples) / RATE)


def test_a_chunk_knows_the_speech_in_it_without_the_padding(
    reader: AudioReader, recording: Recording, whole: Samples
) -> None:
    config = ChunkConfig(vad="energy", max_s=10)
    (window,) = windows(recording, 150.0, 1)
    with reader:
        _, _, cuts = decode_window(reader, window, PLAN, config, 30.0)
        _, _, unseen = decode_window(reader, window, PLAN, CHUNKS, 30.0)
    speech_s = sum(stop - start for start, stop in speech_spans(whole, config)) / RATE
    assert sum(cut.speech_s or 0.0 for cut in cuts) == pytest.approx(speech_s)
    assert all(0 < (cut.speech_s or 0.0) < (cut.stop - cut.start) / RATE for cut in cuts)
    assert {cut.speech_s for cut in unseen} == {None}


edges = st.lists(st.integers(0, 40), max_size=12, unique=True).map(sorted)


@given(edges, edges)
def test_speech_is_counted_sample_by_sample(chunk_edges: list[int], speech_edges: list[int]) -> None:
    bounds, speech = (list(zip(some[::2], some[1::2], strict=False)) for some in (chunk_edges, speech_edges))
    spoken = {sample for start, stop in speech for sample in range(start, stop)}
    expected = [len(spoken & set(range(start, stop))) / RATE for start, stop in bounds]
    assert _speech_s(bounds, speech) == pytest.approx(expected)


def test_audio_that_breaks_off_is_declared_failed(reader: AudioReader, recording: Recording) -> None:
    with reader:
        last, _, _ = decode_window(reader, windows(recording, 200.0, 2)[1], PLAN, CHUNKS, 30.0)
    assert last.failure is not None
    assert last.failure.code == "truncated"
    assert (last.spans[-1].kind, last.spans[-1].end_s) == ("failed", 200.0)


def test_a_rounded_duration_loses_nothing_and_a_shorter_one_is_kept_to(
    reader: AudioReader, recording: Recording
) -> None:
    def given(duration_s: float) -> Window:
        return Window(replace(recording, duration_s=duration_s), 0, 1, 0.0, duration_s, open_end=False)

    with reader:
        rounded, samples, _ = decode_window(reader, given(149.98), PLAN, CHUNKS, 30.0)
        shorter, _, _ = decode_window(reader, given(100.0), PLAN, CHUNKS, 30.0)
    assert len(samples) == 150 * RATE
    assert rounded.report.warnings == ()
    assert (shorter.end_s, shorter.report.warnings) == (100.0, ()), (
        "the first segment of a file is its own stretch alone"
    )


def test_a_segment_with_an_offset_is_exact(reader: AudioReader, recording: Recording, whole: Samples) -> None:
    segment = replace(recording, offset_s=20.0, duration_s=5.0)
    with reader:
        _, samples, _ = decode_window(reader, Window(segment, 0, 1, 0.0, 5.0, open_end=False), PLAN, CHUNKS, 30.0)
    assert np.array_equal(samples, whole[20 * RATE : 25 * RATE])


def test_unknown_length_is_read_to_the_end_unless_it_never_comes(reader: AudioReader, recording: Recording) -> None:
    unknown = Window(recording, 0, 1, 0.0, 0.0)
    with reader:
        _, samples, _ = decode_window(reader, unknown, PlanConfig(window_s=300), CHUNKS, 30.0)
        assert len(samples) == 150 * RATE
        with pytest.raises(AudioError, match="give the row its duration") as error:
            decode_window(reader, unknown, PLAN, CHUNKS, 30.0)
    assert error.value.code == "audio_too_long"
