"""From labels to text, words and confidences. Knows the tokenizer and the frame's length, no audio and no device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.engines.ctc.alignment import Floats, Ints, Tokens, choose, collapse, find_words, span_times
from pipeline.errors import ConfigError
from pipeline.records import Word

_SPACES = ("Ġ", "▁")  # how byte-level and sentencepiece tokens write the space that begins a word


class Reading(NamedTuple):
    """What a clip's labels say."""

    text: str
    confidence: float | None  # mean of the tokens'; None: there are none
    n_tokens: int
    words: tuple[Word, ...]


class LabelReader:
    """A model's tokenizer, for several threads."""

    def __init__(self, folder: Path, *, vocabulary: int, blank: int, frame_s: float) -> None:
        """Raises ConfigError: no tokenizer, or one with tokens that the model has no label for."""
        from transformers import AutoTokenizer

        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # noqa: BLE001 - broken files raise what they like
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"The tokenizer in {folder} cannot be read ({reason}); download the model again."
            ) from None
        tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
        delimiter = getattr(tokenizer, "word_delimiter_token", None)
        special = {id_ for id_ in tokenizer.all_special_ids if tokens[id_] != delimiter}
        # Tokenizers add special tokens of their own behind the labels of a model that was trained without them.
        if any(id_ not in special for id_ in range(vocabulary, len(tokens))):
            raise ConfigError(
                f"The tokenizer in {folder} has {len(tokens)} tokens, the model {vocabulary}; take both from one revision."
            )
        self._tokenizer = tokenizer
        self._blank, self._frame_s = blank, frame_s
        self._begins, self._separates, self._speaks = np.zeros((3, vocabulary), bool)
        for id_, token in enumerate(tokens[:vocabulary]):
            self._begins[id_] = token.startswith(_SPACES)
            self._separates[id_] = token == delimiter
            self._speaks[id_] = id_ not in special

    def read(self, labels: Ints, confidences: Floats, audio_s: float, *, words: bool) -> Reading:
        """Labels [T] of a clip and the posterior of each → what they say; `words`: also word by word, with times."""
        tokens = collapse(labels, confidences, self._blank)
        tokens = choose(tokens, self._speaks[tokens.ids])
        text = self._decode(tokens.ids)
        if not text:
            return Reading("", None, len(tokens.ids), ())
        said = self._words(tokens, text, audio_s) if words else ()
        return Reading(text, float(tokens.confidences.mean()), len(tokens.ids), said)

    def _words(self, tokens: Tokens, text: str, audio_s: float) -> tuple[Word, ...]:
        """None where they do not make up the text: a tokenizer may space its tokens in a way that is not known here."""
        spans = find_words(self._begins[tokens.ids], self._separates[tokens.ids])
        found = []
        for span, word in zip(spans, self._decode_all([tokens.ids[start:end] for start, end in spans]), strict=True):
            if word:
                start_s, end_s = span_times(tokens, span, self._frame_s, audio_s)
                found.append(Word(word, start_s, end_s, float(tokens.confidences[span.start : span.end].mean())))
        return tuple(found) if [word.word for word in found] == text.split() else ()

    def _decode(self, ids: Ints) -> str:
        # Repeats are two tokens here, as a blank stood between them: the tokenizer must not collapse again.
        text: str = self._tokenizer.decode(ids.tolist(), skip_special_tokens=True, group_tokens=False)
        return text.strip()

    def _decode_all(self, pieces: Sequence[Ints]) -> list[str]:
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return [self._decode(piece) for piece in pieces]
        texts = backend.decode_batch([piece.tolist() for piece in pieces], skip_special_tokens=True)
        return [text.strip() for text in texts]
