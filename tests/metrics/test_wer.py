"""Counts are jiwer's, row by row and in every sum."""

from __future__ import annotations

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.wer import NO_ERRORS, count_char_errors, count_word_errors, error_rate, errors, score, total
from pipeline.records import ErrorCounts
from pipeline.text.normalize import normalize, normalizer_for

texts = st.lists(st.sampled_from(["a", "b", "cat", "cats", "the", "ça", "日本", "don't"]), max_size=12).map(" ".join)
pairs = st.tuples(texts, texts)


@given(st.lists(pairs, min_size=1, max_size=8), st.data())
def test_any_slice_sums_to_what_jiwer_says_of_it(rows: list[tuple[str, str]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, unique=True))
    references, hypotheses = (list(side) for side in zip(*(rows[index] for index in chosen), strict=True))
    for count, whole in (
        (count_word_errors, jiwer.process_words(references, hypotheses)),
        (count_char_errors, jiwer.process_characters(references, hypotheses)),
    ):
        summed = total(count(*rows[index]) for index in chosen)
        assert (summed.substitutions, summed.deletions, summed.insertions) == (
            whole.substitutions,
            whole.deletions,
            whole.insertions,
        )
        assert summed.reference_length == whole.hits + whole.substitutions + whole.deletions
        rate = whole.wer if isinstance(whole, jiwer.WordOutput) else whole.cer
        assert error_rate(summed) == (rate if summed.reference_length else None)


@given(pairs)
def test_the_counts_of_a_row_fit_together(pair: tuple[str, str]) -> None:
    reference, hypothesis = pair
    found = count_word_errors(reference, hypothesis)
    assert found.reference_length == len(reference.split())
    assert found.reference_length - found.deletions + found.insertions == len(hypothesis.split())
    assert (errors(found) == 0) == (reference.split() == hypothesis.split())
    assert count_char_errors(reference, hypothesis).reference_length == len(reference)


def test_known_counts() -> None:
    assert count_word_errors("the cat sat down", "a cat sat down now") == ErrorCounts(1, 0, 1, 4)
    assert count_word_errors("the cat sat", "cat") == ErrorCounts(0, 2, 0, 3)
    assert count_char_errors("ab cd", "abcd") == ErrorCounts(0, 1, 0, 5)


def test_an_empty_reference_makes_every_word_an_insertion() -> None:
    assert count_word_errors("", "two words") == ErrorCounts(0, 0, 2, 0)
    assert count_char_errors("", "two") == ErrorCounts(0, 0, 3, 0)
    assert count_word_errors("", "") == NO_ERRORS
    assert error_rate(count_word_errors("", "two words")) is None
    assert error_rate(total([count_word_errors("", "two words"), count_word_errors("one", "one")])) == 2.0


def test_an_empty_hypothesis_deletes_every_word() -> None:
    assert count_word_errors("two words", "") == ErrorCounts(0, 2, 0, 2)
    assert error_rate(count_word_errors("two words", "")) == 1.0


def test_nothing_sums_to_nothing() -> None:
    assert total([]) == NO_ERRORS
    assert error_rate(NO_ERRORS) is None


def test_both_texts_go_through_the_same_normaliser() -> None:
    words, chars, normalizer = score("Mr. Smith can't come.", "mister smith cannot come", "en-US", "auto")
    assert normalizer == normalizer_for("english", None)
    assert words == ErrorCounts(1, 1, 0, 5)
    assert chars == ErrorCounts(0, 1, 0, len("mister smith can not come"))


def test_a_reference_of_noise_marks_alone_is_empty() -> None:
    words, chars, _ = score("[noise] (um)", "hello", "en", "auto")
    assert words == ErrorCounts(0, 0, 1, 0)
    assert chars == ErrorCounts(0, 0, 5, 0)


def test_without_spaces_a_sentence_is_one_word_and_characters_tell_more() -> None:
    words, chars, normalizer = score("東京は大きい。", "東京は大きな", "ja", "auto")
    assert normalizer == normalizer_for("basic", None)
    assert error_rate(words) == 1.0
    assert error_rate(chars) == pytest.approx(1 / 6)


def test_none_compares_what_was_written() -> None:
    words, _, normalizer = score("Hello\nthere", "hello there", "en", "none")
    assert (words, normalizer) == (ErrorCounts(1, 0, 0, 2), "none")


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["en", "ja", None]))
def test_any_two_texts_can_be_scored(reference: str, text: str, language: str | None) -> None:
    words, chars, normalizer = score(reference, text, language, "auto")
    normal = normalize(reference, normalizer)
    assert words.reference_length == len(normal.split())
    assert chars.reference_length == len(normal)
