from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.energy import FRAME, frame_energy
from pipeline.audio.seam import GRID, quietest_cut_s, seam_bounds
from pipeline.records import SAMPLE_RATE_HZ


def noise(n_samples: int, seed: int, loudness: int = 3000) -> np.ndarray:
    """Noise whose loudness changes every 50 ms."""
    rng = np.random.default_rng(seed)
    gain = np.repeat(rng.uniform(0, 1, n_samples // 800 + 1), 800)[:n_samples]
    return (rng.normal(0, loudness, n_samples) * gain).clip(-32768, 32767).astype(np.int16)


def cut(recording: np.ndarray, boundary_s: float, overlap_s: float) -> int:
    """What either neighbour does: decode the border region, cut it. The sample of the recording where they part."""
    low_s, high_s = seam_bounds(boundary_s, overlap_s)
    border = recording[round(low_s * SAMPLE_RATE_HZ) : round(high_s * SAMPLE_RATE_HZ)].copy()
    return round(quietest_cut_s(border, low_s) * SAMPLE_RATE_HZ)


@given(
    st.integers(20, 60),
    st.floats(3.0, 15.0),
    st.floats(1.0, 2.9),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 3000]),
)
def test_neighbours_tile_the_recording_to_the_sample(length_s, window_s, overlap_s, seed, loudness):
    recording = noise(length_s * SAMPLE_RATE_HZ, seed, loudness)
    boundaries_s = np.arange(window_s, length_s - overlap_s, window_s)
    ends = [*(cut(recording, boundary_s, overlap_s) for boundary_s in boundaries_s), len(recording)]
    starts = [0, *(cut(recording, boundary_s, overlap_s) for boundary_s in boundaries_s)]
    windows = [recording[start:end] for start, end in zip(starts, ends, strict=True)]
    assert all(len(window) for window in windows)
    assert np.array_equal(np.concatenate(windows), recording)


@given(st.integers(0, 40_000), st.floats(0.0, 5000.0), st.integers(0, 2**32 - 1))
def test_the_cut_is_inside_the_region_on_the_grid_and_always_the_same(n_samples, start_s, seed):
    region = noise(n_samples, seed)
    cut_s = quietest_cut_s(region, start_s)
    sample = round(cut_s * SAMPLE_RATE_HZ)
    start = round(start_s * SAMPLE_RATE_HZ)
    assert start <= sample <= start + n_samples
    assert sample % GRID == 0 or n_samples < 2 * GRID
    assert sample % FRAME == 0 or n_samples < 2 * FRAME
    assert quietest_cut_s(region.copy(), start_s) == cut_s


@given(st.floats(0.0, 40_000.0), st.floats(1.0, 60.0))
def test_the_border_region_lies_around_the_boundary_on_whole_10_ms(boundary_s, overlap_s):
    low_s, high_s = seam_bounds(boundary_s, overlap_s)
    assert 0.0 <= low_s <= boundary_s + 0.005
    assert high_s >= boundary_s
    assert high_s - low_s <= overlap_s + 0.011
    for edge_s in (low_s, high_s):
        assert round(edge_s * SAMPLE_RATE_HZ) % FRAME == 0


@given(st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_the_cut_does_not_depend_on_where_the_region_starts(shift_frames, seed):
    # The pause is the quietest place of both regions, so both must find it at the same time of the recording.
    recording = noise(10 * SAMPLE_RATE_HZ, seed).clip(-30000, 30000) + np.int16(1)
    recording[6 * SAMPLE_RATE_HZ : round(6.3 * SAMPLE_RATE_HZ)] = 0
    start_s = shift_frames / 100
    cut_s = quietest_cut_s(recording[round(start_s * SAMPLE_RATE_HZ) :], start_s)
    assert cut_s == pytest.approx(6.08), "the middle of the pause, 6.15 s, on whole 160 ms"


def test_the_quietest_place_wins_over_the_nearest():
    region = noise(4 * SAMPLE_RATE_HZ, 1) // 2 + 2000 * np.sign(np.sin(np.arange(4 * SAMPLE_RATE_HZ))).astype(np.int16)
    region[16_000:24_000] //= 50
    region[48_000:56_000] = 0
    assert 103.15 <= quietest_cut_s(region, 100.0) <= 103.35


def test_of_equals_the_middle_is_taken():
    assert quietest_cut_s(np.zeros(8 * SAMPLE_RATE_HZ, np.int16), 20.0) == 24.0


def test_a_steady_offset_is_as_quiet_as_silence():
    assert quietest_cut_s(np.full(8 * SAMPLE_RATE_HZ, 900, np.int16), 20.0) == 24.0


@pytest.mark.parametrize("n_samples", [0, 1, FRAME - 1])
def test_a_region_shorter_than_10_ms_is_cut_at_its_start(n_samples):
    assert quietest_cut_s(np.ones(n_samples, np.int16), 7.0) == 7.0


def test_energy_is_exact_at_full_scale():
    loudest = np.tile(np.array([-32768, 32767], np.int16), FRAME)
    frame = loudest[:FRAME].astype(object)
    assert frame_energy(loudest).tolist() == [FRAME * (frame**2).sum() - frame.sum() ** 2] * 2


def test_real_speech_is_cut_in_a_pause(shared_data):
    """At every whole second of a reading: never inside a word of the alignment."""
    import soundfile

    words = [
        (float(start_s), float(start_s) + float(length_s))
        for name, _, start_s, length_s, _ in map(str.split, (shared_data / "g/hmm-align/gold_read.ctm").open())
        if name == "1688-142285-0000"
    ]
    samples, _ = soundfile.read(shared_data / "a/librispeech-test-other/1688-142285-0000.flac", dtype="int16")
    inside = 0
    boundaries = range(3, 13)
    for boundary_s in boundaries:
        low_s, high_s = seam_bounds(boundary_s, 4.0)
        cut_s = quietest_cut_s(samples[round(low_s * SAMPLE_RATE_HZ) : round(high_s * SAMPLE_RATE_HZ)], low_s)
        inside += any(start_s + 0.05 < cut_s < end_s - 0.05 for start_s, end_s in words)
    assert inside == 0
