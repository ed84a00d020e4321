"""From Whisper's tokens to text, segments and word times. Knows the tokenizer, no audio and no device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.engines.whisper.options import DecodingOptions
from pipeline.records import Hypothesis, Segment, Word

_TIMESTAMP_S = 0.02  # also the step of the encoder's frames
_OPENING = "\"'“¿([{-"


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the decoder gave for one chunk. `alignment`: a ctranslate2 WhisperAlignmentResult of the text tokens."""

    tokens: tuple[int, ...]
    log_prob: float  # mean per token, end of text included
    no_speech_prob: float
    cut_off: bool
    language: str
    alignment: Any = None


def read_hypothesis(decoded: Decoded, tokenizer: Any, audio_s: float, options: DecodingOptions) -> Hypothesis:
    """Text, and segments and words where timestamp tokens and an alignment came; times from the chunk's start.

    A chunk that the model takes for silence, and is unsure of, has no text.
    """
    if decoded.no_speech_prob > options.no_speech_threshold and decoded.log_prob < options.log_prob_threshold:
        return Hypothesis("", decoded.language, stop_reason="silence")
    text_tokens = [token for token in decoded.tokens if token < tokenizer.eot]
    words = list(_words(decoded, text_tokens, tokenizer, audio_s)) if decoded.alignment is not None else []
    segments = _segments(decoded.tokens, words, tokenizer, audio_s)
    return Hypothesis(
        text=tokenizer.decode(text_tokens).strip(),
        language=decoded.language,
        confidence=math.exp(decoded.log_prob) if text_tokens else None,
        n_tokens=len(text_tokens),
        stop_reason="length" if decoded.cut_off else "eos",
        segments=segments,
        words=() if segments else tuple(word for _, word in words),
    )


def _segments(
    tokens: Sequence[int], words: Sequence[tuple[int, Word]], tokenizer: Any, audio_s: float
) -> tuple[Segment, ...]:
    found: list[Segment] = []
    first = 0
    for start_s, end_s, piece in _timed_pieces(tokens, tokenizer, audio_s):
        inside = tuple(word for position, word in words if first <= position < first + len(piece))
        if inside:  # the alignment is finer than the timestamps, which favour whole seconds
            first_s, last_s = inside[0].start_s, inside[-1].end_s
            start_s, end_s = start_s if first_s is None else first_s, end_s if last_s is None else last_s
        text = tokenizer.decode(piece).strip()
        found.append(Segment(len(found), start_s, end_s, text, words=inside))
        first += len(piece)
    return tuple(found)


def _timed_pieces(tokens: Sequence[int], tokenizer: Any, audio_s: float) -> Iterator[tuple[float, float, list[int]]]:
    """Runs of text tokens between timestamps; nothing where the model gave no timestamps."""
    start_s, piece = 0.0, list[int]()
    timed = any(token >= tokenizer.timestamp_begin for token in tokens)
    for token in tokens:
        if token < tokenizer.eot:
            piece.append(token)
        elif token >= tokenizer.timestamp_begin:
            at_s = min(round((token - tokenizer.timestamp_begin) * _TIMESTAMP_S, 2), audio_s)
            if piece:
                yield start_s, max(at_s, start_s), piece
                piece = []
            start_s = at_s
    if timed and piece:
        yield start_s, audio_s, piece


def _words(decoded: Decoded, text_tokens: list[int], tokenizer: Any, audio_s: float) -> Iterator[tuple[int, Word]]:
    """Each word with the position of its first token. A word runs from its first token's onset to the next word's."""
    onsets: dict[int, float] = {}
    for token_index, frame in decoded.alignment.alignments:
        onsets.setdefault(token_index, min(round(frame * _TIMESTAMP_S, 2), audio_s))
    position = 0
    for text, size in _joined_punctuation(*tokenizer.split_to_word_tokens(text_tokens)):
        end = position + size
        probabilities = decoded.alignment.text_token_probs[position:end]
        yield (
            position,
            Word(
                word=text,
                start_s=onsets.get(position),
                end_s=onsets.get(end, audio_s),
                confidence=sum(probabilities) / len(probabilities) if probabilities else None,
            ),
        )
        position = end


def _joined_punctuation(texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[tuple[str, int]]:
    """Words as people write them, with their number of tokens: marks join the word they stand at."""
    joined: list[tuple[str, int]] = []
    opening = False
    for text, piece in zip(texts, tokens, strict=True):
        bare = text.strip()
        mark = not any(letter.isalnum() for letter in bare)
        if joined and (opening or (mark and not text.startswith(" "))):
            before, size = joined[-1]
            joined[-1] = (before + bare, size + len(piece))
        else:
            joined.append((bare, len(piece)))
        opening = mark and text.startswith(" ") and bare in _OPENING
    return joined
