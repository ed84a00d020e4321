"""English text as the Open ASR leaderboard compares it: Whisper's normaliser, with the leaderboard's own rules around its parts.

Written after `normalizer/normalizer.py` of huggingface/open_asr_leaderboard in the version of 2026 that knows clock times and
acronyms. Number words, spellings and the removal of symbols are those of the package `whisper-normalizer`. docs/evaluate.md
says what is the same and what is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import groupby

RULES = "1"  # of this module: other rules, another number in the id, other counts

_BRACKETED = re.compile(r"[<\[][^>\]]*[>\]]")
_IN_PARENTHESES = re.compile(r"\(([^)]+?)\)")
# Sounds of hesitation, however long they are drawn out. "ah-ha" stands first: "ha" alone is a word.
_HESITATIONS = re.compile(
    r"\b(ah-ha|a+h+(m*|a+)|e+h+m*|e+m+|e+r+m*|h+(a+|e+|u+)h+|h+m+|m{2,}|m+h+m*|t+s+k+|u+g+h+|u+h+(m*|u+[hm]*)|u+m+h*"
    r"|ahem|eheh|ehehe|ehr|hmmph|hum|hunh|mhum|mmkay)\b"
)
_MANY_SPACES = re.compile(r"\s{3,}")
_SPACE_BEFORE_APOSTROPHE = re.compile(r"\s+'")
# The package knows these, the leaderboard does not; and "'s" is "is" only where it cannot be a possessive.
_NOT_THERE = frozenset({r"\bkinda\b", r"\bsorta\b", r"\bdunno\b", r"\bcause\b", r"'s\b"})
_IS = re.compile(r"\b(it|he|she|what|that|who|here|there|how|when|where|why|this)'s\b")
_COMMA_IN_NUMBER = re.compile(r"(\d),(\d)")
_FULL_STOP = re.compile(r"\.(?![0-9])")
_KEPT_SYMBOLS = ".%$¢€£"
_JOINED = {
    "etc": r"et\s+cetera",
    "alright": r"all?\s+right",
    "however": r"how\s+ever",
    "wifi": r"wi\s+fi",
    "hifi": r"hi\s+fi",
    "lofi": r"lo\s+fi",
    "scifi": r"sci\s+fi",
    "email": r"e\s+mail",
    "ebook": r"e\s+book",
    "ecommerce": r"e\s+commerce",
    "xray": r"x\s+ray",
    "tshirt": r"t\s+shirt",
    "am": r"a\s+m",
    "pm": r"p\s+m",
    "okay": r"o\s+k",
    "oh": r"o+h+|ooo+",
}
_WORDS = {"ok": "okay", "kay": "okay", "etcetera": "etc"}
_STRAY_CURRENCY = re.compile(r"[.$¢€£](?![0-9])")
_STRAY_PERCENT = re.compile(r"(?<![0-9])%")
_OH_WORD = "ohh"  # stands for an "oh" that is no zero: no text has it, `_JOINED` has made "oh" of it


class LeaderboardEnglish:
    """Normalises English text. Building it reads the package's spelling list."""

    def __init__(self) -> None:
        from whisper_normalizer.english import EnglishTextNormalizer

        whisper = EnglishTextNormalizer()
        self._contractions = [
            (re.compile(pattern), written)
            for pattern, written in whisper.replacers.items()
            if pattern not in _NOT_THERE
        ]
        general = next(n for n, (found, _) in enumerate(self._contractions) if found.pattern == r"'d\b")
        self._contractions.insert(general, (_IS, r"\1 is"))
        self._numbers: Callable[[str], str] = whisper.standardize_numbers
        self._digits = _Digits(whisper.standardize_numbers)
        self._clock = _Clock(whisper.standardize_numbers)
        self._spellings: Mapping[str, str] = {**whisper.standardize_spellings.mapping, **_WORDS}
        self._joined = [(re.compile(rf"\b({pattern})\b"), word) for word, pattern in _JOINED.items()]

    def __call__(self, text: str) -> str:
        """Normalised text; white space is as it falls."""
        from whisper_normalizer.basic import remove_symbols_and_diacritics

        text = _IN_PARENTHESES.sub("", _BRACKETED.sub("", text.lower()))
        text = _MANY_SPACES.sub("  ", _HESITATIONS.sub("", text))  # or the next pattern searches from each of them
        text = _SPACE_BEFORE_APOSTROPHE.sub("'", text)
        text = self._clock(text)
        for pattern, written in self._contractions:
            text = pattern.sub(written, text)
        text = _FULL_STOP.sub(" ", _COMMA_IN_NUMBER.sub(r"\1\2", text))
        text = remove_symbols_and_diacritics(text, keep=_KEPT_SYMBOLS)
        for pattern, written in self._joined:
            text = pattern.sub(written, text)
        text = self._numbers(self._digits.mark_words(text))
        words = (word.replace(_OH_WORD, "oh") for word in text.split())
        text = " ".join(_acronyms([self._spellings.get(word, word) for word in words]))
        return _STRAY_PERCENT.sub(" ", _STRAY_CURRENCY.sub(" ", text))


def _acronyms(words: list[str]) -> list[str]:
    """Single letters and digits that follow each other as one word: "b b c". With "a" or "i" among them it takes three."""
    found: list[str] = []
    for single, run in groupby(words, lambda word: len(word) == 1 and word.isalnum()):
        some = list(run)
        least = 3 if {"a", "i"} & set(some) else 2
        found += ["".join(some)] if single and len(some) >= least else some
    return found


class _Digits:
    """Tells an "oh" among digits, a zero, from the exclamation."""

    def __init__(self, numbers: object) -> None:
        zeros, ones, tens, multipliers = (
            set(getattr(numbers, name)) for name in ("zeros", "ones", "tens", "multipliers")
        )
        self._digits = zeros | ones | tens
        self._open = ones | tens | multipliers | (zeros - {"oh"}) | {"point"}  # after these a number is not over

    def mark_words(self, text: str) -> str:
        """The text with every "oh" that is no zero made _OH_WORD.

        A zero has digits after it, and a number before it or two digits after it.
        """
        words = text.split()
        number_before = False
        for place, word in enumerate(words):
            if word == "oh":
                after = [self._is_digit(other) for other in words[place + 1 : place + 3]]
                number_before = after[:1] == [True] and (number_before or after == [True, True])
                if not number_before:
                    words[place] = _OH_WORD
            else:
                number_before = word in self._open or bool(re.fullmatch(r"[$€£¢+-]?\d+(\.\d+)?", word))
        return " ".join(words)

    def _is_digit(self, word: str) -> bool:
        return word in self._digits or bool(re.fullmatch(r"\d+", word))


class _Clock:
    """Times of the day as hours and minutes: "half past nine" and "9:30" are "9:30", "nine o'clock" and "9:00" are "9"."""

    def __init__(self, numbers: Callable[[str], str]) -> None:
        self._numbers = numbers
        ones: Mapping[str, int] = vars(numbers)["ones"]
        digits, units = "|".join(word for word, value in ones.items() if value < 10), "|".join(ones)
        number = rf"(?:[0-9]{{1,2}}|(?:twenty|thirty|forty|fifty)(?:[\s-]+(?:{digits}))?|{units}|zero)"
        o_clock = r"o\s*['’]?\s*clock"
        self._spoken = re.compile(
            rf"(?<![\w.:])(half|(?:a\s+)?quarter|{number}\s+minutes?)\s+(past|after|to|before)\s+({number})(?:\s+{o_clock})?\b"
        )
        self._full_hour = re.compile(rf"(?<![\w.:])({number})\s+{o_clock}\b")
        self._written = re.compile(r"(?<![\w:./])([01]?[0-9]|2[0-3]):([0-5][0-9])(?![\w:]|\.[0-9])")

    def __call__(self, text: str) -> str:
        """The text with its times written so."""
        text = self._spoken.sub(self._from_spoken, text)
        text = self._full_hour.sub(self._from_full_hour, text)
        return self._written.sub(_without_empty_minutes, text)

    def _value(self, words: str) -> int:
        found = self._numbers(words.replace("-", " ")).strip()
        return 1 if found == "one" else int(found)

    def _from_spoken(self, match: re.Match[str]) -> str:
        amount, relation, hour_words = match.groups()
        hour = self._value(hour_words)
        if amount == "half":
            minute = 30
        elif amount.endswith("quarter"):
            minute = 15
        else:
            minute = self._value(amount.rsplit(maxsplit=1)[0])
        if hour > 23 or minute > 59:
            return match.group()
        if relation in ("to", "before") and minute:
            minute = 60 - minute
            hour = (hour - 2) % 12 + 1 if 1 <= hour <= 12 else (hour - 1) % 24
        return f"{hour}:{minute:02d}"

    def _from_full_hour(self, match: re.Match[str]) -> str:
        hour = self._value(match.group(1))
        return f"{hour}:00" if hour <= 23 else match.group()


def _without_empty_minutes(match: re.Match[str]) -> str:
    hour, minute = map(int, match.groups())
    return f"{hour}:{minute:02d}" if minute else str(hour)
