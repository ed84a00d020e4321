"""What the autoregressive Granite Speech models are asked, word for word as they were trained to be asked.

Pure: words in, words out. Sources: the model cards of granite-4.0-1b-speech and granite-speech-4.1-2b, and the prompts of IBM's
package granite-speech. A prompt that the model does not know gives plain transcription, so none is made up here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Version = Literal["4.0", "4.1"]

LANGUAGE_NAMES = {
    "en": "English",
    "fr": "French",
    "de": "German",
    "es": "Spanish",
    "pt": "Portuguese",
    "ja": "Japanese",
    "it": "Italian",
    "zh": "Mandarin",
}
TRANSCRIBED = frozenset({"en", "fr", "de", "es", "pt", "ja"})
# Around the audio: no system turn, and no space between the audio and the instruction.
BEFORE_AUDIO, AFTER_INSTRUCTION = "USER: ", "\n ASSISTANT:"

_RAW = "can you transcribe the speech into a written format?"
_PUNCTUATED = "transcribe the speech with proper punctuation and capitalization."
_WITH_KEYWORDS = "transcribe the speech to text."


def translated_from(target: str) -> frozenset[str]:
    """Languages whose speech can be translated into the target; empty: there is no such pair."""
    if target == "en":
        return TRANSCRIBED - {"en"}
    return frozenset({"en"}) if target in LANGUAGE_NAMES else frozenset()


def transcription(version: Version, keywords: Iterable[str] = (), *, punctuated: bool = False) -> str:
    """The instruction to write down what is said.

    `punctuated`: 4.1 alone knows it. With keywords it gives way: no prompt asks for both.
    """
    words = clean_keywords(keywords)
    if words:
        return _hint(_WITH_KEYWORDS if version == "4.1" else _RAW, words)
    if not punctuated:
        return _RAW
    if version != "4.1":
        raise ValueError(f"version {version} was not trained to punctuate")
    return _PUNCTUATED


def translation(target: str, keywords: Iterable[str] = (), *, punctuated: bool = False) -> str:
    """The instruction to write what is said in another language. With keywords, `punctuated` gives way."""
    words = clean_keywords(keywords)
    request = f"translate the speech to {LANGUAGE_NAMES[target]}"
    if words:
        return _hint(f"{request}.", words)
    return f"{request} with proper punctuation and capitalization." if punctuated else f"{request}."


def clean_keywords(keywords: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order, with single spaces and no line breaks, which would end the turn; empty ones are dropped."""
    return tuple(dict.fromkeys(word for word in (" ".join(keyword.split()) for keyword in keywords) if word))


def _hint(instruction: str, keywords: Iterable[str]) -> str:
    return f"{instruction} Keywords: {', '.join(keywords)}"
