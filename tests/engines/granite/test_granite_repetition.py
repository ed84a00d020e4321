"""Properties of the loop detector."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.granite.repetition import LONGEST_PERIOD, MIN_TOKENS, MIN_TURNS, cut_loop

TOKENS = st.integers(0, 9)


@given(st.lists(TOKENS, max_size=40), st.lists(TOKENS, min_size=1, max_size=LONGEST_PERIOD), st.integers(0, 31))
def test_every_loop_is_found_and_one_turn_of_it_stays(before: list[int], turn: list[int], more: int) -> None:
    turns = max(MIN_TURNS, -(-MIN_TOKENS // len(turn)))
    ids = before + turn * turns + turn[: more % len(turn)]
    kept = cut_loop(ids)
    assert kept is not None
    assert 0 < kept <= len(before) + len(turn)  # a shorter circle within the turn may have been there before


@given(st.lists(TOKENS, max_size=120))
def test_what_is_cut_is_a_repetition_of_what_stays(ids: list[int]) -> None:
    kept = cut_loop(ids)
    if kept is None:
        return
    rebuilt = [
        ids[:kept] + [ids[at - period] for at in range(kept, len(ids))]
        for period in range(1, min(LONGEST_PERIOD, kept) + 1)
        if all(ids[at] == ids[at - period] for at in range(kept, len(ids)))
    ]
    assert ids in rebuilt
    assert len(ids) - kept >= MIN_TOKENS * (MIN_TURNS - 1) // MIN_TURNS


@given(st.lists(st.integers(0, 10**6), max_size=200, unique=True))
def test_text_that_never_repeats_is_left_alone(ids: list[int]) -> None:
    assert cut_loop(ids) is None


def test_a_decoder_is_cut_at_the_first_moment() -> None:
    ids = [7, 8, 9, *[1, 2, 3] * 30]
    found = [cut_loop(ids[:size]) for size in range(len(ids) + 1)]
    first = next(size for size, kept in enumerate(found) if kept is not None)
    assert first == 3 + MIN_TOKENS
    assert set(found[first:]) == {6}
    assert found[:first] == [None] * first


def test_people_repeat_themselves() -> None:
    assert cut_loop([5] * (MIN_TOKENS - 1)) is None
    assert cut_loop([5] * MIN_TOKENS) == 1
    sentence = list(range(LONGEST_PERIOD))
    assert cut_loop(sentence * (MIN_TURNS - 1)) is None
    assert cut_loop(sentence * MIN_TURNS) == LONGEST_PERIOD
    assert cut_loop([*sentence, 99] * 9) is None  # longer than any circle that is looked for
