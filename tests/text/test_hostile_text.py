"""Texts that were written to stop a normaliser: they take no longer than others, and change nothing for the others."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from whisper_normalizer.basic import BasicTextNormalizer
from whisper_normalizer.english import EnglishTextNormalizer

from pipeline.metrics.wer import score
from pipeline.text.leaderboard import LeaderboardEnglish
from pipeline.text.normalize import normalize, normalizer_for

IDS = {name: normalizer_for(name, "en") for name in ("english", "basic", "leaderboard")}
THEIRS = {"english": EnglishTextNormalizer(), "basic": BasicTextNormalizer(), "leaderboard": LeaderboardEnglish()}
UNITS = [
    "(",
    "[",
    "<",
    "(a) ",
    "um ",
    "mmm ",
    "(((a ",
    "[ab",
    ")(",
    "[)",
    " ",
    "\t",
    "\u3000",
    "1",
    "²",
    "11,",
    "1\u0301",
    "0.",
    "1:0",
    "$",
    "'",
    " '",
    "a'",
]
UNITS += ["m", "mh", "uh", "h", "o", "ooh ", "e t c", "one ", "million ", "double ", "point ", "and a half ", "x"]


@pytest.mark.parametrize(
    ("name", "unit"), [(name, unit) for name in IDS for unit in (UNITS if name == "english" else UNITS[:14])]
)
def test_a_text_of_one_thing_takes_no_time(name: str, unit: str) -> None:
    """A hundred thousand characters; the packages alone take a minute for the brackets, and end with an error over digits."""
    text = unit * (100_000 // len(unit))
    begun = time.process_time()
    normalize(text, IDS[name])
    assert time.process_time() - begun < 5.0


@pytest.mark.parametrize("name", IDS)
@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("()[]<>ab d's1,.*%$\u00e9\n\u3000"), max_size=40))
@example("(((( [)] ((")
@example("<a[b]c> it's (been")
@example("she 'd   been  [ (x)")
def test_every_other_text_is_as_the_package_has_it(name: str, text: str) -> None:
    assert normalize(text, IDS[name]) == " ".join(THEIRS[name](text).split())


@pytest.mark.parametrize("name", IDS)
def test_a_number_without_end_is_cut_and_the_rest_is_compared(name: str) -> None:
    text = f"he said {'7' * 10_000} and won't stop"
    words = normalize(text, IDS[name]).split()
    assert (words[:2], words[-1]) == (["he", "said"], "stop")
    assert "".join(words[2:-4]).startswith("7" * 400)


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("words", [4_290 * "five " + "decillion", 4_299 * "nine " + "hundredth", 4_400 * "9 thousand "])
def test_a_number_in_words_without_end_ends_nothing(name: str, words: str) -> None:
    assert normalize(f"so {words}", IDS[name]).startswith("so ")


def test_such_a_reference_is_scored() -> None:
    words, _, normalizer = score("9" * 5_000 + " hello", "hello", "en", "auto")
    assert normalizer == IDS["english"]
    assert words.reference_length == 14, "thirteen pieces of a number, and a word"
