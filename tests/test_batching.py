from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import pack_batches, padded_s

PADDINGS = ("none", "longest", "fixed")
lengths = st.lists(st.floats(0.0, 60.0), max_size=80).map(lambda values: np.array(values, np.float64))
limits = st.fixed_dictionaries(
    {
        "max_audio_s": st.floats(0.5, 200.0),
        "max_chunks": st.integers(1, 20),
        "padding": st.sampled_from(PADDINGS),
        "fixed_s": st.floats(1.0, 60.0),
    }
)


@given(lengths, limits)
def test_every_chunk_is_in_one_batch_and_every_batch_keeps_its_limits(audio_s, limit):
    batches = pack_batches(audio_s, **limit)
    assert sorted(index for batch in batches for index in batch) == list(range(len(audio_s)))
    for batch in batches:
        assert 1 <= len(batch) <= limit["max_chunks"]
        assert len(batch) == 1 or padded_s(audio_s, batch, limit["padding"], limit["fixed_s"]) <= limit["max_audio_s"]


@given(lengths, limits)
def test_long_chunks_go_first_and_equals_go_by_index(audio_s, limit):
    order = [int(index) for batch in pack_batches(audio_s, **limit) for index in batch]
    assert order == sorted(range(len(audio_s)), key=lambda index: (-audio_s[index], index))


@given(lengths, limits, st.randoms(use_true_random=False))
def test_the_lengths_in_a_batch_do_not_depend_on_the_order_of_arrival(audio_s, limit, random):
    shuffled = audio_s.tolist()
    random.shuffle(shuffled)
    shuffled_s = np.array(shuffled, np.float64)
    of_sorted = [audio_s[batch].tolist() for batch in pack_batches(audio_s, **limit)]
    assert [shuffled_s[batch].tolist() for batch in pack_batches(shuffled_s, **limit)] == of_sorted


@given(lengths, limits)
def test_no_batch_could_have_taken_the_next_chunk(audio_s, limit):
    batches = pack_batches(audio_s, **limit)
    for batch, following in pairwise(batches):
        more = np.append(batch, following[0])
        over_s = padded_s(audio_s, more, limit["padding"], limit["fixed_s"]) - limit["max_audio_s"]
        assert len(more) > limit["max_chunks"] or over_s > -1e-9


def test_padded_seconds_of_each_kind():
    audio_s, batch = np.array([1.0, 4.0, 2.0]), np.array([0, 1])
    assert padded_s(audio_s, batch, "none", 30.0) == 5.0
    assert padded_s(audio_s, batch, "longest", 30.0) == 8.0
    assert padded_s(audio_s, batch, "fixed", 30.0) == 60.0
    assert padded_s(audio_s, np.array([], np.intp), "longest", 30.0) == 0.0


def test_rounding_never_takes_a_batch_over_the_budget():
    """Tenths of a second often add up to the budget exactly, and their floats to a hair more."""
    for seed in range(20):
        audio_s = np.random.default_rng(seed).integers(1, 30, 60) / 10
        for batch in pack_batches(audio_s, max_audio_s=10.0, max_chunks=60, padding="none"):
            assert padded_s(audio_s, batch, "none", 0.0) <= 10.0


def test_a_chunk_over_the_budget_goes_alone():
    batches = pack_batches(np.array([5.0, 50.0, 5.0]), max_audio_s=10.0, max_chunks=8, padding="longest")
    assert [batch.tolist() for batch in batches] == [[1], [0, 2]]


@pytest.mark.parametrize(
    "limit",
    [
        {"max_audio_s": 0.0, "max_chunks": 1, "padding": "none"},
        {"max_audio_s": float("nan"), "max_chunks": 1, "padding": "none"},
        {"max_audio_s": 10.0, "max_chunks": 0, "padding": "none"},
        {"max_audio_s": 10.0, "max_chunks": 1, "padding": "fixed"},
    ],
)
def test_limits_that_no_batch_can_keep_are_refused(limit):
    with pytest.raises(ValueError, match="no batch can keep"):
        pack_batches(np.array([1.0]), **limit)


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_million_chunks_are_packed_in_a_moment(padding):
    audio_s = np.random.default_rng(7).lognormal(1.7, 0.7, 1_000_000).clip(0.3, 30.0)
    started_s = time.process_time()
    batches = pack_batches(audio_s, max_audio_s=480.0, max_chunks=512, padding=padding, fixed_s=30.0)
    assert time.process_time() - started_s < 3.0
    assert sum(len(batch) for batch in batches) == len(audio_s)
    if padding == "longest":
        padded = sum(padded_s(audio_s, batch, padding, 30.0) for batch in batches)
        assert padded / audio_s.sum() < 1.005
