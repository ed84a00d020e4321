"""Word timing of whisper-transformers: the path is the cheapest there is, and the steps before it are transformers'."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.engines.whisper_transformers.alignment import align, cheapest_path, smooth

COSTS = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-8, 8).map(float)
)


@given(COSTS)
def test_no_path_is_cheaper(costs: np.ndarray) -> None:
    path = cheapest_path(costs)
    steps = {(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(path)}
    assert (path[0], path[-1]) == ((0, 0), (costs.shape[0] - 1, costs.shape[1] - 1))
    assert steps <= {(0, 1), (1, 0), (1, 1)}
    assert sum(costs[cell] for cell in path) == pytest.approx(cheapest(costs))


def cheapest(costs: np.ndarray) -> float:
    """By trying every path, remembered."""

    @cache
    def upto(token: int, frame: int) -> float:
        before = [(token - 1, frame - 1), (token - 1, frame), (token, frame - 1)]
        found = [upto(*cell) for cell in before if min(cell) >= 0]
        return float(costs[token, frame]) + (min(found) if found else 0.0)

    return upto(costs.shape[0] - 1, costs.shape[1] - 1)


def test_it_goes_the_way_that_transformers_goes() -> None:
    from transformers.models.whisper.generation_whisper import _dynamic_time_warping, _median_filter

    noise = np.random.default_rng(0)
    for tokens, frames in ((1, 1), (1, 40), (7, 3), (20, 150)):
        costs = noise.normal(size=(tokens, frames)).astype(np.float32)
        rows, columns = _dynamic_time_warping(costs.astype(np.float64))
        assert cheapest_path(costs) == list(zip(rows.tolist(), columns.tolist(), strict=True))
    import torch

    for frames in (3, 4, 50):
        weights = noise.normal(size=(2, 3, frames)).astype(np.float32)
        expected = _median_filter(torch.from_numpy(weights)[None], 7)[0].numpy()
        assert np.array_equal(smooth(weights), expected)


def test_tokens_are_found_where_the_heads_look() -> None:
    heads = np.full((2, 4, 80), 1e-4, np.float32)
    for token in range(4):
        heads[:, token, token * 20 : token * 20 + 20] = 0.05
    onsets: dict[int, int] = {}
    for token, frame in align(heads):
        onsets.setdefault(token, frame)
    assert onsets == {0: 0, 1: 20, 2: 40, 3: 60}


def test_where_all_tokens_look_alike_rounding_errors_move_nothing() -> None:
    flat = np.full((2, 5, 60), 1 / 60, np.float32)
    noise = np.random.default_rng(0).uniform(-1, 1, flat.shape).astype(np.float32)
    assert align(flat * (1 + noise * 1e-6)) == align(flat)
    assert align(flat * (1 + noise * 1e-2)) != align(flat)
