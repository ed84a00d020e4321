"""Quality flags: what in a transcript should be looked at, and why. Names, and pure functions that set them.

A flag never changes or drops text. Most come from a segment alone, so they can be computed again at any time (`judged`);
those of FROM_THE_CHUNK need what only the engine and the voice activity detection know. docs/quality.md says where the
limits come from.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import replace

from pipeline.config import FlagsConfig
from pipeline.engines.languages import is_allowed
from pipeline.records import Chunk, Hypothesis, Segment, Span

# Name and meaning, in the order in which they are written.
FLAGS: dict[str, str] = {
    "repeated_ngrams": "a phrase comes three times or more in direct succession",
    "too_fast": "more characters a second than anybody says",
    "compressible": "the text compresses as well as text that goes round in circles",
    "text_on_silence": "more text than fits into the speech that was found in the chunk",
    "empty_on_speech": "the engine gave no text for audio with speech in it; the span is `unheard`",
    "language_not_allowed": "the language is not among engine.allowed_languages",
    "low_confidence": "the mean probability of the tokens is low",
    "token_budget_hit": "the engine stopped at its longest text, so the end may be missing",
    "loop_cut": "the engine went round in a circle and was stopped",
    "draft": "the engine kept its first hypothesis unedited",
}
DEFAULT_LIMITS = FlagsConfig()
FROM_THE_CHUNK = frozenset({"text_on_silence", "token_budget_hit", "loop_cut", "draft"})
_FROM_THE_SEGMENT = frozenset(FLAGS) - FROM_THE_CHUNK - {"empty_on_speech"}
_OF_STOP_REASONS = {"length": "token_budget_hit", "loop": "loop_cut", "draft": "draft"}

# Kana and ideographs, with their rarer blocks and half widths; then other scripts without spaces between words: Thai, Lao,
# Burmese, Khmer.
_CJK = "\u3005-\u3007\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_UNSPACED = _CJK + "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
# Marks of several scripts; the apostrophe is a letter here, and the hyphen is not, so that "no-no-no" is three words.
_MARKS = "!-&(-/:-@\\[-`{-~\u00a1-\u00bf\u060c\u061b\u061f\u06d4\u0964\u0965\u2010-\u2018\u201a-\u206f\u3000-\u3004\u3008-\u303f"
_MARKS += "\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"  # full widths
_TOKEN = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}{_MARKS}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
# Characters that stand for a syllable or more: kana, ideographs, Hangul.
_SYLLABIC = re.compile(f"[{_CJK}\uac00-\ud7af]")
_LETTERS_OF_A_SYLLABLE = 2.5
_CHARACTERS_OF_A_WORD = 2  # of an unspaced script
_LEAST_TURNS = 3
_LONGEST_PHRASE = 32  # words, or characters of an unspaced script
_LEAST_SPEECH_S = 0.25  # a syllable or two: what was found may lack its soft ends
_LEAST_S = 1.0  # times are rounded and cut close: a shorter stretch says nothing about pace
_COMPRESSED_AT_ONCE = 1000  # characters; longer text compresses better for being long


def judged(segment: Segment, limits: FlagsConfig, allowed_languages: Collection[str] = ()) -> Segment:
    """The segment with the flags that it earns by itself; those it has from its chunk or its engine stay.

    `allowed_languages` as people write them; empty: all.
    """
    kept = [flag for flag in segment.flags if flag not in _FROM_THE_SEGMENT]
    found = {
        "repeated_ngrams": limits.repeated_words is not None and longest_repeat(segment.text) >= limits.repeated_words,
        "too_fast": limits.chars_per_s is not None
        and spoken_chars(segment.text) > limits.chars_per_s * max(segment.end_s - segment.start_s, _LEAST_S),
        "compressible": limits.compression_ratio is not None
        and compression_ratio(segment.text) > limits.compression_ratio,
        "low_confidence": limits.confidence is not None
        and segment.confidence is not None
        and segment.confidence < limits.confidence,
        "language_not_allowed": not is_allowed(segment.language, allowed_languages),
    }
    return replace(segment, flags=in_order([*kept, *(flag for flag, is_set in found.items() if is_set)]))


def chunk_flags(chunk: Chunk, hypothesis: Hypothesis, limits: FlagsConfig) -> tuple[str, ...]:
    """Those of FROM_THE_CHUNK: they hold for every segment of the hypothesis."""
    found = [_OF_STOP_REASONS[hypothesis.stop_reason]] if hypothesis.stop_reason in _OF_STOP_REASONS else []
    if chunk.speech_s is not None and limits.silence_chars_per_s is not None:
        text = " ".join(segment.text for segment in hypothesis.segments) or hypothesis.text
        if spoken_chars(text) > limits.silence_chars_per_s * max(chunk.speech_s, _LEAST_SPEECH_S):
            found.append("text_on_silence")
    return in_order(found)


def is_unheard(chunk: Chunk, limits: FlagsConfig) -> bool:
    """Whether a chunk without text has speech enough to ask why."""
    if chunk.speech_s is None or limits.unheard_speech_s is None:
        return False
    return chunk.speech_s >= limits.unheard_speech_s


def row_flags(segments: Iterable[Segment], spans: Iterable[Span]) -> tuple[str, ...]:
    """The flags of a transcript: all of its segments', and `empty_on_speech` for unheard spans."""
    found = [flag for segment in segments for flag in segment.flags]
    found += ["empty_on_speech" for span in spans if span.kind == "unheard"]
    return in_order(found)


def in_order(flags: Iterable[str]) -> tuple[str, ...]:
    """Each flag once: those that an engine brought, by name, then ours in the order of FLAGS."""
    found = set(flags)
    return (*sorted(found - FLAGS.keys()), *(flag for flag in FLAGS if flag in found))


def spoken_chars(text: str) -> float:
    """Letters and digits of a text; one that stands for a syllable counts as 2.5."""
    letters = sum(map(str.isalnum, text))
    return letters + (_LETTERS_OF_A_SYLLABLE - 1) * len(_SYLLABIC.findall(text))


def compression_ratio(text: str) -> float:
    """Bytes of UTF-8 over bytes of zlib, as Whisper takes it, of the most repetitive thousand characters."""
    parts = max(1, math.ceil(len(text) / _COMPRESSED_AT_ONCE))
    size = math.ceil(len(text) / parts)
    pieces = (text[start : start + size].encode("utf-8", "replace") for start in range(0, len(text), size or 1))
    return max((len(piece) / len(zlib.compress(piece)) for piece in pieces), default=0.0)


def longest_repeat(text: str) -> int:
    """Words in the longest stretch that is one phrase said three times or more; 0: there is none.

    Case and punctuation aside. In a script without spaces two characters count as a word.
    """
    tokens = _tokens(text)
    longest, is_unspaced = 0, [_IS_UNSPACED.match(token) is not None for token in tokens]
    for start, stop in _repeats(tokens):
        characters = sum(is_unspaced[start:stop])
        longest = max(longest, stop - start - characters + characters // _CHARACTERS_OF_A_WORD)
    return longest


def without_repeats(text: str) -> str:
    """The words, or characters of an unspaced script, that lie in no phrase said three times or more; without case and marks."""
    tokens = _tokens(text)
    repeated = {place for start, stop in _repeats(tokens) for place in range(start, stop)}
    return " ".join(token for place, token in enumerate(tokens) if place not in repeated)


def _tokens(text: str) -> list[str]:
    return [token for token in _TOKEN.findall(text.casefold()) if any(map(str.isalnum, token))]


def _repeats(tokens: Sequence[Hashable]) -> Iterable[tuple[int, int]]:
    """Stretches that are one phrase, of any length, said three times or more."""
    for phrase in range(1, min(_LONGEST_PHRASE, len(tokens) // _LEAST_TURNS) + 1):
        yield from _turns(tokens, phrase)


def _turns(tokens: Sequence[Hashable], phrase: int) -> Iterable[tuple[int, int]]:
    """Stretches in which each token equals the one `phrase` before it, of three turns or more."""
    start = 0
    for position in range(phrase, len(tokens) + 1):
        if position == len(tokens) or tokens[position] != tokens[position - phrase]:
            if position - start >= _LEAST_TURNS * phrase:
                yield start, position
            start = position - phrase + 1
