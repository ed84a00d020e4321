"""What the autoregressive Granite Speech models are asked, word for word as they were trained to be asked.

Pure: words in, words out. Sources: the model cards of granite-4.0-1b-speech and granite-speech-4.1-2b, the prompts of IBM's
package granite-speech, and for 3.3 its card and the evaluation scripts of IBM's unitxt. A prompt that the model does not know
gives plain transcription, so none is made up here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Version = Literal["3.3", "4.0", "4.1"]

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
TRANSCRIBED = frozenset({"en", "fr", "de", "es", "pt", "ja"})  # 3.3 takes no Japanese, see `transcribed`
# Around the audio: no system turn, and no space between the audio and the instruction.
BEFORE_AUDIO, AFTER_INSTRUCTION = "USER: ", "\n ASSISTANT:"
# 3.3 has roles, and a system turn with the dates of its training.
START, END, OVER = "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"
MARKS = frozenset({START, END, OVER})  # parts of a prompt that are one special token
SYSTEM_33 = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: April 9, 2025.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)

_RAW = "can you transcribe the speech into a written format?"
_PUNCTUATED = "transcribe the speech with proper punctuation and capitalization."
_WITH_KEYWORDS = "transcribe the speech to text."


def before_audio(version: Version) -> tuple[str, ...]:
    """The parts of a prompt before the audio; those in `MARKS` are one token each."""
    if version == "3.3":
        return (START, "system", END, SYSTEM_33, OVER, "\n", START, "user", END)
    return (BEFORE_AUDIO,)


def after_audio(version: Version, instruction: str) -> tuple[str, ...]:
    """The parts of a prompt behind the audio, up to where the model answers."""
    if version == "3.3":
        return (instruction, OVER, "\n", START, "assistant", END)
    return (instruction + AFTER_INSTRUCTION,)


def transcribed(version: Version) -> frozenset[str]:
    """Languages that can be written down."""
    return TRANSCRIBED - {"ja"} if version == "3.3" else TRANSCRIBED


def translated_from(target: str, version: Version = "4.1") -> frozenset[str]:
    """Languages whose speech can be translated into the target; empty: there is no such pair."""
    if target == "en":
        return transcribed(version) - {"en"}
    return frozenset({"en"}) if target in LANGUAGE_NAMES else frozenset()


def transcription(version: Version, keywords: Iterable[str] = (), *, punctuated: bool = False) -> str:
    """The instruction to write down what is said.

    `punctuated`: 4.1 alone knows it. With keywords it gives way: no prompt asks for both. 3.3 takes no keywords.
    """
    words = clean_keywords(keywords)
    if words and version == "3.3":
        raise ValueError("version 3.3 takes no keywords")
    if words:
        return _hint(_WITH_KEYWORDS if version == "4.1" else _RAW, words)
    if not punctuated:
        return _RAW
    if version != "4.1":
        raise ValueError(f"version {version} was not trained to punctuate")
    return _PUNCTUATED


def translation(
    target: str, keywords: Iterable[str] = (), *, punctuated: bool = False, version: Version = "4.1"
) -> str:
    """The instruction to write what is said in another language. With keywords, `punctuated` gives way; 3.3 knows neither."""
    words = clean_keywords(keywords)
    if version == "3.3":
        if words or punctuated:
            raise ValueError("version 3.3 translates without keywords and punctuation")
        return f"translate the speech to {'Chinese' if target == 'zh' else LANGUAGE_NAMES[target]}"
    request = f"translate the speech to {LANGUAGE_NAMES[target]}"
    if words:
        return _hint(f"{request}.", words)
    return f"{request} with proper punctuation and capitalization." if punctuated else f"{request}."


def clean_keywords(keywords: Iterable[str]) -> tuple[str, ...]:
    """Each once, in order, with single spaces and no line breaks, which would end the turn; empty ones are dropped."""
    return tuple(dict.fromkeys(word for word in (" ".join(keyword.split()) for keyword in keywords) if word))


def _hint(instruction: str, keywords: Iterable[str]) -> str:
    return f"{instruction} Keywords: {', '.join(keywords)}"
