"""The leaderboard's English, rule by rule; what it shares with Whisper's normaliser is that normaliser's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.text.normalize import normalize, normalizer_for

ID = normalizer_for("leaderboard", "en-US")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Whisper's own rules stay.
        ("Mr. Brown won't pay $20 million.", "mister brown will not pay $20000000"),
        ("[noise] The colour (laughs) of 1,000 dogs", "the color of 1000 dogs"),
        # Hesitations, however long.
        ("Uhhh, ah-ha! Um-hmm, the mmm err hat; huh?", "the hat"),
        ("The hum of an umbrella, a hammer and her", "the of an umbrella a hammer and her"),
        # Possessives are no verbs; a few pronouns' are.
        ("It's John's. That's what he's at", "it is john s that is what he is at"),
        ("I'm kinda sure 'cause we've seen it", "i am kinda sure cause we have seen it"),
        # Acronyms, however they are spaced.
        ("B. B. C. and BBC, 5 G and U.S. and U S A", "bbc and bbc 5g and us and usa"),
        ("a b or i c but x i", "a b or i c but x i"),
        # Compounds and spellings.
        ("All right, O. K., ok: Wi-Fi et cetera, e mail", "alright okay okay wifi etc email"),
        # Clock times.
        ("half past nine, 9:30, nine o'clock and 9:00", "9 30 9 30 9 and 9"),
        ("a quarter to one or ten minutes before midnight", "12 45 or 10 minutes before midnight"),
        # "oh" is a zero only among digits.
        ("Oh well, oh oh dear", "oh well oh oh dear"),
        ("room four oh one", "room 401"),
        ("oh seven nine eight oh", "0798 oh"),
        ("oh one of them", "oh one of them"),
        # What the leaderboard leaves out, written as it is in TED-LIUM.
        ("ignore_time_segment_in_scoring", "ignore time segment in scoring"),
        ("50 % of 3.5%, $ and .", "50 of 3.5% and"),
    ],
)
def test_english(text: str, expected: str) -> None:
    assert normalize(text, ID) == expected


def test_other_languages_have_whispers_basic_normaliser() -> None:
    assert normalizer_for("leaderboard", "de") == normalizer_for("basic", None)
    assert normalizer_for("leaderboard", None) == normalizer_for("basic", None)


WORDS = [
    "oh",
    "five",
    "20",
    "point",
    "double",
    "a",
    ".",
    "$",
    "%",
    "'s",
    "to",
    "o'clock",
    "half",
    "past",
    "twenty-one",
    "9:60",
]


@given(st.text(max_size=80) | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_is_normalised(text: str) -> None:
    assert normalize(text, ID) == " ".join(normalize(text, ID).split())
