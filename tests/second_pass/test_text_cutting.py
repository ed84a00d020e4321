"""Long transcripts in parts that fit, without a letter lost."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.second_pass.cutting import borders, cut


def words(text: str) -> int:
    return len(re.findall(r"\S+", text))


@given(st.text(alphabet="ab .\n。！", max_size=300), st.integers(1, 40))
def test_parts_are_the_text_and_fit(text: str, limit: int) -> None:
    parts = cut(text, limit, len)
    assert "".join(parts) == text
    assert all(len(part) <= limit for part in parts)


@given(st.lists(st.sampled_from(["oh", "say.", "can", "you?", "see"]), max_size=60), st.integers(1, 20))
def test_words_stay_whole(text_words: list[str], limit: int) -> None:
    parts = cut(" ".join(text_words), limit, words)
    assert [word for part in parts for word in part.split()] == text_words
    assert all(words(part) <= limit for part in parts)


def test_cuts_fall_behind_sentences() -> None:
    text = 'She said "no." He did not. They went home! Why? Nobody knows.'
    assert cut(text, 6, words) == ['She said "no." He did not. ', "They went home! Why? Nobody knows."]


def test_segments_are_borders_where_nothing_is_punctuated() -> None:
    segments = ("she came in", "he did not", "they went home")
    text = " ".join(segments)
    assert [text[:at] for at in borders(text, segments)] == ["she came in ", "she came in he did not "]
    assert cut(text, 6, words, segments) == ["she came in he did not ", "they went home"]
    assert cut(text, 5, words, segments)[0] == "she came in "


def test_segments_that_are_not_in_the_text_do_no_harm() -> None:
    assert cut("one two. three four.", 2, words, ("what", "", "four. five")) == ["one two. ", "three four."]


def test_japanese_sentences_need_no_space() -> None:
    assert cut("今日は。元気です。はい。", 8, len) == ["今日は。", "元気です。はい。"]


def test_parts_are_of_about_one_size() -> None:
    text = "one two. " * 11
    sizes = [words(part) for part in cut(text, 20, words)]
    assert sizes == [12, 10]


def test_no_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="no text can be cut to 0"):
        cut("text", 0, words)
