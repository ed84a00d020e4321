"""Which normaliser a row gets, and what the two of them do."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.normalize import normalize, normalizer_for

ENGLISH = f"whisper-english/{version('whisper-normalizer')}"
BASIC = f"whisper-basic/{version('whisper-normalizer')}"


@pytest.mark.parametrize(
    ("setting", "language", "expected"),
    [
        *(("auto", language, ENGLISH) for language in ("en", "EN", "en-GB", "en_us", " en ", "eng", "english")),
        *(("auto", language, BASIC) for language in ("de", "enm", "ja", "", None, "zh-en")),
        *(("english", language, ENGLISH) for language in ("de", None)),
        *(("basic", language, BASIC) for language in ("en", None)),
        ("none", "en", "none"),
    ],
)
def test_the_language_chooses_the_normaliser(setting: str, language: str | None, expected: str) -> None:
    assert normalizer_for(setting, language) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Mr. Smith's colour TV cost twenty-five dollars!", "mister smith is color tv cost $25"),
        ("Um, I won't go [laughter] (sighs) there.", "i will not go there"),
        ("", ""),
        ("[noise]", ""),
    ],
)
def test_english_as_on_the_leaderboard(text: str, expected: str) -> None:
    assert normalize(text, ENGLISH) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Die Straße, «sehr» laut …", "die straße sehr laut"),
        ("東京は、大きい。", "東京は 大きい"),
        ("I won't", "i won t"),
    ],
)
def test_basic_keeps_words_and_drops_signs(text: str, expected: str) -> None:
    assert normalize(text, BASIC) == expected


def test_none_changes_white_space_alone() -> None:
    assert normalize("  Don't\n  touch\u3000THIS. ", "none") == "Don't touch THIS."


@pytest.mark.parametrize("unknown", ["whisper-english/0.0.1", "whisper-english", "basic", ""])
def test_an_id_of_another_installation_is_refused(unknown: str) -> None:
    with pytest.raises(ValueError, match="there is no normaliser"):
        normalize("a", unknown)


@given(st.text(max_size=80), st.sampled_from([ENGLISH, BASIC, "none"]))
def test_any_text_comes_out_as_words_parted_by_single_spaces(text: str, normalizer: str) -> None:
    found = normalize(text, normalizer)
    assert found == " ".join(found.split())


NUMBER_WORDS = ["one", "ten", "twenty", "hundred", "point", "and", "a", "half", "double", "oh", "first"]
NUMBER_SIGNS = ["0", "7", "1.5", "22nd", "-3", "'s", "$", "%", "¢9"]


@given(st.lists(st.sampled_from(NUMBER_WORDS + NUMBER_SIGNS), max_size=8))
def test_no_spelling_of_a_number_breaks_the_english_one(words: list[str]) -> None:
    normalize(" ".join(words), ENGLISH)


def test_the_package_is_imported_when_first_used() -> None:
    check = "import sys, pipeline.text.normalize, pipeline.metrics.wer; print({'whisper_normalizer', 'jiwer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
