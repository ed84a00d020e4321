from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.chunk import SLIVER, cut_chunks
from pipeline.audio.energy import FRAME
from pipeline.records import SAMPLE_RATE_HZ

RNG = np.random.default_rng(3)
NOISE = RNG.normal(0, 2000, 120 * SAMPLE_RATE_HZ).astype(np.int16)
LONGEST_PAUSE = 5 * SAMPLE_RATE_HZ


@st.composite
def windows(draw):
    """Samples, speech in them (sorted, disjoint, perhaps touching), the longest chunk and the longest pause in one."""
    edges = sorted(draw(st.lists(st.integers(0, 80 * SAMPLE_RATE_HZ), max_size=24, unique=True)))
    speech = list(zip(edges[::2], edges[1::2], strict=False))
    if draw(st.booleans()):
        speech = list(pairwise(edges))
    n_samples = max([edges[-1] if edges else 0, draw(st.integers(0, 80 * SAMPLE_RATE_HZ))])
    longest_pause = draw(st.sampled_from([None, 0, SAMPLE_RATE_HZ, LONGEST_PAUSE]))
    return NOISE[:n_samples], speech, draw(st.integers(SAMPLE_RATE_HZ, 40 * SAMPLE_RATE_HZ)), longest_pause


@given(windows())
def test_chunks_fit_cover_all_speech_and_do_not_overlap(window):
    samples, speech, max_samples, longest_pause = window
    chunks = cut_chunks(samples, speech, max_samples, longest_pause)
    assert all(0 < end - start <= max_samples for start, end in chunks)
    assert all(start >= 0 and end <= len(samples) for start, end in chunks)
    assert all(before <= after for (_, before), (after, _) in pairwise(chunks))
    held = np.zeros(len(samples), bool)
    for start, end in chunks:
        held[start:end] = True
    assert all(held[start:end].all() for start, end in speech)


@given(windows())
def test_the_same_window_is_always_cut_the_same_way(window):
    samples, speech, max_samples, longest_pause = window
    again = cut_chunks(samples.copy(), tuple(speech), max_samples, longest_pause)
    assert again == cut_chunks(samples, speech, max_samples, longest_pause)


@given(windows())
def test_what_was_cut_needs_no_more_cutting(window):
    samples, speech, max_samples, longest_pause = window
    chunks = cut_chunks(samples, speech, max_samples, longest_pause)
    for start, end in chunks:
        assert cut_chunks(samples[start:end], [(0, end - start)], max_samples, longest_pause) == ((0, end - start),)


@pytest.mark.parametrize(
    ("pause", "longest_pause", "count"),
    [
        (LONGEST_PAUSE, LONGEST_PAUSE, 1),
        (LONGEST_PAUSE + 1, LONGEST_PAUSE, 2),
        (1, 0, 2),
        (0, 0, 1),
        (27 * SAMPLE_RATE_HZ, None, 1),
        (27 * SAMPLE_RATE_HZ + 1, None, 2),
    ],
)
def test_a_long_pause_ends_a_chunk(pause, longest_pause, count):
    second = 2 * SAMPLE_RATE_HZ + pause
    speech = [(0, 2 * SAMPLE_RATE_HZ), (second, second + SAMPLE_RATE_HZ)]
    assert len(cut_chunks(NOISE, speech, 30 * SAMPLE_RATE_HZ, longest_pause)) == count


@given(windows())
def test_no_chunk_of_many_runs_over_a_long_pause(window):
    samples, speech, max_samples, longest_pause = window
    chunks = cut_chunks(samples, speech, max_samples, longest_pause)
    long_pauses = [(end, start) for (_, end), (start, _) in pairwise(speech) if start - end > (longest_pause or 0)]
    if len(chunks) > 1 and longest_pause is not None:
        assert not any(first <= low and high <= last for first, last in chunks for low, high in long_pauses)


@given(st.integers(2 * SAMPLE_RATE_HZ, 100 * SAMPLE_RATE_HZ), st.integers(3 * SAMPLE_RATE_HZ, 40 * SAMPLE_RATE_HZ))
def test_unbroken_speech_leaves_no_sliver(n_samples, max_samples):
    chunks = cut_chunks(NOISE[:n_samples], [(0, n_samples)], max_samples, LONGEST_PAUSE)
    assert chunks[0][0] == 0
    assert chunks[-1][1] == n_samples
    assert all(before == after for (_, before), (after, _) in pairwise(chunks))
    assert min(end - start for start, end in chunks) >= SLIVER


def test_no_speech_no_chunks():
    assert cut_chunks(NOISE, [], SAMPLE_RATE_HZ, LONGEST_PAUSE) == ()


def test_a_short_recording_with_speech_stays_whole():
    samples = NOISE[: 10 * SAMPLE_RATE_HZ]
    assert cut_chunks(samples, [(50_000, 60_000)], len(samples), LONGEST_PAUSE) == ((0, len(samples)),)


def test_a_cut_falls_on_the_longest_pause_of_the_last_third():
    speech = np.array([(0, 9), (9.2, 21), (21.4, 24), (25, 27), (27.1, 29), (29.2, 40)]) * SAMPLE_RATE_HZ
    chunks = cut_chunks(
        NOISE[: 40 * SAMPLE_RATE_HZ], [tuple(map(int, span)) for span in speech], 30 * SAMPLE_RATE_HZ, LONGEST_PAUSE
    )
    assert [(start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ) for start, end in chunks] == [(0, 24), (25, 40)]


def test_a_cut_that_would_leave_a_sliver_is_passed_over():
    speech = np.array([(0, 24), (24.1, 29), (29.5, 30.4)]) * SAMPLE_RATE_HZ
    chunks = cut_chunks(
        NOISE[: 31 * SAMPLE_RATE_HZ], [tuple(map(int, span)) for span in speech], 30 * SAMPLE_RATE_HZ, LONGEST_PAUSE
    )
    assert [(start / SAMPLE_RATE_HZ, end / SAMPLE_RATE_HZ) for start, end in chunks] == [(0, 24), (24.1, 30.4)]


def test_speech_that_just_fits_is_one_chunk():
    speech = [(0, 10 * SAMPLE_RATE_HZ), (11 * SAMPLE_RATE_HZ, 30 * SAMPLE_RATE_HZ)]
    assert cut_chunks(NOISE, speech, 30 * SAMPLE_RATE_HZ, LONGEST_PAUSE) == ((0, 30 * SAMPLE_RATE_HZ),)


def test_unbroken_speech_is_cut_where_it_is_quietest():
    samples = NOISE[: 40 * SAMPLE_RATE_HZ].copy()
    quiet = slice(26 * SAMPLE_RATE_HZ, 26 * SAMPLE_RATE_HZ + 10 * FRAME)
    samples[quiet] = 0
    samples[5 * SAMPLE_RATE_HZ : 6 * SAMPLE_RATE_HZ] = 0  # quieter for longer, but too early
    cut = quiet.start + 5 * FRAME
    assert cut_chunks(samples, [(0, len(samples))], 30 * SAMPLE_RATE_HZ, LONGEST_PAUSE) == (
        (0, cut),
        (cut, len(samples)),
    )


@pytest.mark.parametrize("max_samples", [1, 100, FRAME, 1000])
def test_tiny_limits_are_kept(max_samples):
    chunks = cut_chunks(NOISE[:5000], [(0, 5000)], max_samples, LONGEST_PAUSE)
    assert max(end - start for start, end in chunks) <= max_samples
    assert sum(end - start for start, end in chunks) == 5000


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="cannot hold"):
        cut_chunks(NOISE, [(0, 10)], 0, LONGEST_PAUSE)
