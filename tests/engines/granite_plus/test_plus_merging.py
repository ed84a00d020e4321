"""Two hypotheses of an overlap: nothing lost, nothing doubled where they agree, something sensible where they do not."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.granite_plus.merging import Placed, join_at

few = st.lists(st.sampled_from("abc"))
unlike = st.lists(st.integers(0, 999), unique=True).map(lambda numbers: [f"w{number}" for number in numbers])


def joined(old: Sequence[str], new: Sequence[str]) -> list[str]:
    end, start = join_at([Placed(word) for word in old], [Placed(word) for word in new])
    assert 0 <= end <= len(old)
    assert 0 <= start <= len(new)
    return [*old[:end], *new[start:]]


@given(few, st.integers(0, 40))
def test_a_continuation_that_begins_alike_gives_the_whole(said: list[str], size: int) -> None:
    """However often words come again."""
    assert joined(said[:size], said) == said
    assert joined(said, said[:size]) == said
    assert joined(said, said) == said


@given(unlike, st.data())
def test_where_an_overlap_agrees_no_word_is_lost_or_doubled(said: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(said)))
    end = data.draw(st.integers(min(start + 1, len(said)), len(said)))
    found = joined(said[:end], said[start:])
    assert found == said
    assert joined(found, said[start:]) == said


@given(few, few)
def test_order_is_kept_and_the_end_of_the_longer_hearing_stays(old: list[str], new: list[str]) -> None:
    end, start = join_at([Placed(word) for word in old], [Placed(word) for word in new])
    assert old[:end] + new[start:] == joined(old, new)
    assert end == len(old) or start < len(new)
    if old or new:
        assert joined(old, new)


@given(unlike, unlike)
def test_joining_again_changes_nothing(old: list[str], new: list[str]) -> None:
    once = joined(old, new)
    assert joined(once, once) == once


def test_case_and_punctuation_do_not_matter() -> None:
    assert joined(["So,", "Hello", "Wor"], ["so", "hello", "world", "again"]) == ["So,", "hello", "world", "again"]


def test_a_word_at_the_cut_that_was_heard_in_part_gives_way() -> None:
    old = ["we", "went", "to", "the", "old", "town", "ha"]
    new = ["we", "went", "to", "the", "old", "town", "hall", "and", "then", "home"]
    assert joined(old, new) == new


def test_words_that_agree_by_chance_are_no_anchor() -> None:
    old, new = ["the", "cat", "the", "dog"], ["one", "the", "two", "the", "six", "nine"]
    assert joined(old, new) == [*old[:2], *new[2:]]


def test_times_cut_where_words_do_not_agree() -> None:
    old = [Placed(word, at) for word, at in zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True)]
    new = [Placed(word, at) for word, at in zip("vwxyz", (0.5, 1.0, 1.5, 3.5, 6.0), strict=True)]
    assert join_at(old, new) == (2, 3)
    assert join_at(old, new[:2]) == (4, 2)  # it ends before the rest of the old one: keep that
    assert join_at([*old, Placed("e")], new) == (2, 2)
    assert join_at(old, []) == (4, 0)
    assert join_at([], new) == (0, 0)
