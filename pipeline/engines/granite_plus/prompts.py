"""What Granite Speech Plus is asked, word for word as it was trained to be asked.

Pure: words in, parts of a prompt out. Source: the model card of granite-speech-4.1-2b-plus. Speakers and word times are asked
for one at a time: no published prompt asks for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.engines.granite.prompts import clean_keywords

Mode = Literal["transcript", "speakers", "words"]

LANGUAGES = frozenset({"en", "fr", "de", "es", "pt"})
START, END, OVER = "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"
MARKS = frozenset({START, END, OVER})  # parts of a prompt that are one special token
# The dates are those of the training: today's would be unknown words.
SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: December 19, 2024.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)
BEFORE_AUDIO = (START, "system", END, SYSTEM, OVER, "\n", START, "user", END)

_INSTRUCTIONS: dict[Mode, str] = {
    "transcript": "can you transcribe the speech into a written format?",
    "speakers": (
        "Speaker attribution: Transcribe and denote who is speaking by adding [Speaker 1]: and [Speaker 2]: tags "
        "before speaker turns."
    ),
    "words": (
        "Timestamps: Transcribe the speech. After each word, add a timestamp tag showing the end time in centiseconds, "
        "e.g. hello [T:45] world [T:82]"
    ),
}


def instruction(mode: Mode, keywords: Sequence[str] = ()) -> str:
    """What is asked about the audio. Raises ValueError for keywords in another mode than `transcript`."""
    words = clean_keywords(keywords)
    if words and mode != "transcript":
        raise ValueError(f"mode {mode} takes no keywords")
    return f"{_INSTRUCTIONS[mode]} Keywords: {', '.join(words)}" if words else _INSTRUCTIONS[mode]


def after_audio(asked: str, prefix: str = "") -> tuple[str, ...]:
    """The parts behind the audio, up to where the model goes on: behind `prefix`, its own text so far."""
    parts = (f" {asked}", OVER, "\n", START, "assistant", END)
    return (*parts, prefix) if prefix else parts
