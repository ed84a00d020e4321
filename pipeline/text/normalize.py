"""What text and reference go through before they are compared. Stored text is never normalised.

Whisper's English normaliser for English, its basic one for every other language, which was the Open ASR leaderboard's choice for
years (package `whisper-normalizer`, imported when first used). What the leaderboard has since made of the English one is
"leaderboard" (`text.leaderboard`). An id carries the package's version: another version, other counts.

Languages written without spaces (ja, zh, th …) keep whole sentences as words under "basic": there the character error rate
is the meaningful one. "basic" also drops combining marks, vowel signs of Indic scripts among them, as the leaderboard does.

References come from strangers. The packages' patterns take time that grows with the square of a text of nothing but opening
brackets or spaces, and a number of thousands of digits ends them; here such texts are made harmless first, and for every other
text the result is the packages' own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import version
from typing import Literal

from pipeline.text.leaderboard import RULES, LeaderboardEnglish

Setting = Literal["auto", "english", "basic", "none", "leaderboard"]

_ENGLISH = frozenset({"en", "eng", "english"})
_BRACKETED = re.compile(r"[<\[][^>\]]*[>\]]")  # the packages' first step
_IN_PARENTHESES = re.compile(r"\(([^)]+?)\)")  # the second
_HESITATIONS = re.compile(r"\b(hmm|mm|mhm|mmm|uh|um)\b")  # the third, of the English one
_OPENING, _CLOSING = "<[", ">]"
_SPACES = re.compile(r"\s{3,}")
_LONGEST_WORD, _PIECE_WORDS = 400, 100


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
    normalizer = _normalizer(normalizer_id)
    if normalizer is str:
        return " ".join(text.split())
    text = _without_futile_searches(text, normalizer_id)
    try:
        found = normalizer(text)
    except Exception:  # noqa: BLE001  the packages count with Python's numbers, which end at 4,300 digits
        found = " ".join(_in_pieces(text, normalizer))
    return " ".join(found.split())


def _without_futile_searches(text: str, normalizer_id: str) -> str:
    """The text without what makes the packages' patterns search to its end from every character, to no effect.

    An opening bracket that nothing closes means no more than any other symbol, and three spaces no more than two. What the
    packages take out first is taken out here, for it may leave spaces.
    """
    text = _BRACKETED.sub("", _tail_without(_OPENING, _CLOSING, text))
    text = _IN_PARENTHESES.sub("", _tail_without("(", ")", text))
    if normalizer_id.startswith("whisper-english"):
        text = _HESITATIONS.sub("", text.lower())
    return _SPACES.sub("  ", text)


def _tail_without(opening: str, closing: str, text: str) -> str:
    """The text with a star for each opening bracket behind the last closing one."""
    end = 1 + max(text.rfind(bracket) for bracket in closing)
    return text[:end] + text[end:].translate(dict.fromkeys(map(ord, opening), "*"))


def _in_pieces(text: str, normalizer: Callable[[str], str]) -> Iterator[str]:
    """The words of the text, endless ones cut, a hundred at a time; as the basic normaliser has them where that fails too."""
    basic = _normalizer(normalizer_for("basic", None))
    words = [word[at : at + _LONGEST_WORD] for word in basic(text).split() for at in range(0, len(word), _LONGEST_WORD)]
    for at in range(0, len(words), _PIECE_WORDS):
        piece = " ".join(words[at : at + _PIECE_WORDS])
        try:
            yield normalizer(piece)
        except Exception:  # noqa: BLE001  as above
            yield piece


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
