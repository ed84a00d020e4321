"""What text and reference go through before they are compared. Stored text is never normalised.

Whisper's English normaliser for English, its basic one for every other language, which was the Open ASR leaderboard's choice for
years (package `whisper-normalizer`, imported when first used). What the leaderboard has since made of the English one is
"leaderboard" (`text.leaderboard`). An id carries the package's version: another version, other counts.

Languages written without spaces (ja, zh, th …) keep whole sentences as words under "basic": there the character error rate
is the meaningful one. "basic" also drops combining marks, vowel signs of Indic scripts among them, as the leaderboard does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Literal

from pipeline.text.leaderboard import RULES, LeaderboardEnglish

Setting = Literal["auto", "english", "basic", "none", "leaderboard"]

_ENGLISH = frozenset({"en", "eng", "english"})


def normalizer_for(setting: Setting, language: str | None) -> str:
    """The id of a row's normaliser: "whisper-english/<version>", "whisper-basic/<version>", "leaderboard-english/…" or "none".

    `auto`: english where the language is English (en, en-GB, …), basic for others and for an unknown one. `leaderboard`: the
    same, with the leaderboard's English.
    """
    if setting == "none":
        return "none"
    package = version("whisper-normalizer")
    primary = re.split("[-_]", (language or "").strip().lower())[0]
    if setting == "leaderboard" and primary in _ENGLISH:
        return f"leaderboard-english/{RULES}/{package}"
    english = setting == "english" or (setting == "auto" and primary in _ENGLISH)
    return f"whisper-{'english' if english else 'basic'}/{package}"


def normalize(text: str, normalizer_id: str) -> str:
    """The text as it is compared, words parted by single spaces. "none" changes white space alone.

    Raises ValueError for an id that `normalizer_for` of this installation does not give.
    """
    return " ".join(_normalizer(normalizer_id)(text).split())


@cache
def _normalizer(normalizer_id: str) -> Callable[[str], str]:
    if normalizer_id == "none":
        return str
    found: Callable[[str], str]
    if normalizer_id == normalizer_for("english", None):
        from whisper_normalizer.english import EnglishTextNormalizer

        found = EnglishTextNormalizer()
    elif normalizer_id == normalizer_for("basic", None):
        from whisper_normalizer.basic import BasicTextNormalizer

        found = BasicTextNormalizer()
    elif normalizer_id == normalizer_for("leaderboard", "en"):
        found = LeaderboardEnglish()
    else:
        raise ValueError(f"there is no normaliser {normalizer_id!r} here; installed: {normalizer_for('english', None)}")
    return found
