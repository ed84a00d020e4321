"""Answers that are the transcript corrected, and answers that are something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.second_pass.guard import keeps_text

TEXT = "she was the youngest of the two doters of a most affectionate indulgent father and had in consequence of her sisters marriage been mistress of his house"  # noqa: E501


@pytest.mark.parametrize(
    "answer",
    [
        TEXT,
        "She was the youngest of the two daughters of a most affectionate, indulgent father; and had, in consequence of her "
        "sister's marriage, been mistress of his house.",
    ],
)
def test_corrections_are_kept(answer: str) -> None:
    assert keeps_text(TEXT, answer, 0.4)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "A woman's youth in her father's house.",  # a summary
        TEXT[: len(TEXT) // 2],  # stopped half-way
        TEXT + " " + TEXT,  # said twice
        "Elle était la plus jeune des deux filles d'un père très affectueux et indulgent, et depuis le mariage de sa soeur elle "
        "était la maîtresse de sa maison.",  # a translation
        "I am sorry, but I can only help with questions about cooking, baking and the pleasures of the table, so please do "
        "ask me something about those instead.",
    ],
)
def test_other_answers_are_not(answer: str) -> None:
    assert not keeps_text(TEXT, answer, 0.4)


def test_texts_without_spaces_are_compared_by_letters() -> None:
    assert keeps_text("今日は元気ですか。はい元気です", "今日は元気ですか。はい、元気です。", 0.4)
    assert not keeps_text("今日は元気ですか。はい元気です", "こんにちは世界のみなさんこれは別だ", 0.4)


def test_short_texts_may_change_in_length() -> None:
    assert keeps_text("ok", "Okay.", 1.0)
    assert not keeps_text("ok", "Okay.", 0.4)


def test_punctuation_alone_is_kept_as_it_is() -> None:
    assert keeps_text("…", "...", 0.4)
    assert not keeps_text("…", "Thank you.", 0.4)


@given(st.text(), st.text())
def test_every_text_has_a_verdict(text: str, answer: str) -> None:
    assert keeps_text(text, answer, 0.4) in (True, False)
    assert keeps_text(text, text, 0.4)
