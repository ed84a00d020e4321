from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.timeline import TimelineProblem, audit

# Whole tenths of a second, so that what should be exact is.
tenths = st.integers(0, 300).map(lambda n: n / 10)
cuts = st.lists(tenths, min_size=2, max_size=20, unique=True).map(sorted)


@given(cuts, st.randoms(use_true_random=False))
def test_pieces_that_tile_are_no_problem_in_any_order(edges, random):
    pieces = list(pairwise(edges))
    random.shuffle(pieces)
    assert audit(edges[0], edges[-1], pieces) == []


@given(cuts, st.data())
def test_a_piece_taken_out_is_a_gap_and_a_piece_put_in_twice_an_overlap(edges, data):
    pieces = list(pairwise(edges))
    at = data.draw(st.integers(0, len(pieces) - 1))
    start_s, end_s = pieces[at]
    assert audit(edges[0], edges[-1], pieces[:at] + pieces[at + 1 :]) == [TimelineProblem(start_s, end_s, "gap")]
    assert audit(edges[0], edges[-1], [*pieces, pieces[at]]) == [TimelineProblem(start_s, end_s, "overlap")]


@given(st.lists(st.tuples(tenths, tenths), max_size=12), tenths, tenths)
def test_gaps_are_exactly_the_time_that_no_piece_holds(pieces, one_s, other_s):
    start_s, end_s = sorted((one_s, other_s))
    gaps = [problem for problem in audit(start_s, end_s, pieces) if problem.kind == "gap"]
    for tenth in range(round(start_s * 10), round(end_s * 10)):
        middle_s = tenth / 10 + 0.05
        is_held = any(first < middle_s < last for first, last in pieces)
        assert is_held != any(gap.start_s < middle_s < gap.end_s for gap in gaps)


@given(st.lists(st.tuples(tenths, tenths), max_size=12), st.randoms(use_true_random=False))
def test_problems_come_in_order_of_time_and_do_not_depend_on_the_order_of_pieces(pieces, random):
    problems = audit(5.0, 20.0, pieces)
    random.shuffle(pieces)
    assert audit(5.0, 20.0, pieces) == problems
    gaps = [(problem.start_s, problem.end_s) for problem in problems if problem.kind == "gap"]
    assert gaps == sorted(gaps)


def test_nothing_at_all_is_one_gap():
    assert audit(0.0, 3.0, []) == [TimelineProblem(0.0, 3.0, "gap")]
    assert audit(3.0, 3.0, []) == []


def test_a_piece_over_the_edge_is_outside():
    assert audit(1.0, 3.0, [(0.0, 4.0)]) == [TimelineProblem(0.0, 1.0, "outside"), TimelineProblem(3.0, 4.0, "outside")]
    assert audit(1.0, 2.0, [(1.0, 2.0), (5.0, 6.0)]) == [TimelineProblem(5.0, 6.0, "outside")]


@pytest.mark.parametrize("drift_s", [-0.019, 0.019])
def test_rounding_of_frames_is_tolerated(drift_s):
    assert audit(0.0, 2.0, [(0.0, 1.0), (1.0 + drift_s, 2.0)]) == []
    assert len(audit(0.0, 2.0, [(0.0, 1.0), (1.0 + 2 * drift_s, 2.0)])) == 1


def test_a_piece_that_ends_before_it_starts_accounts_for_nothing():
    assert audit(0.0, 1.0, [(1.0, 0.0)]) == [TimelineProblem(0.0, 1.0, "gap")]
