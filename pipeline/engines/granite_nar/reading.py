"""From the editor's tokens to text, words and confidences. Knows the tokenizer, no audio and no device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.engines.granite_nar.collapse import Floats, Ints
from pipeline.errors import ConfigError
from pipeline.records import Word

ScalarT = TypeVar("ScalarT", bound=np.generic)

_SPACE = "Ġ"  # how byte-level tokens write the space that begins a word


class Reading(NamedTuple):
    """What a clip's tokens say."""

    text: str
    confidence: float | None  # mean posterior of the tokens; None: there are none
    words: tuple[Word, ...]  # with the mean posterior of their tokens, without times: the model gives none


class TokenReader:
    """A model's `tokenizer.json` (byte-level BPE), for several threads."""

    def __init__(self, path: Path, vocabulary: int) -> None:
        """Raises ConfigError: no tokenizer, or one of another size than the model's vocabulary."""
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exceptions for broken files
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"The tokenizer {path} cannot be read ({reason}); download the model again.") from None
        tokens = self._tokenizer.get_vocab(with_added_tokens=True)
        size = 1 + max(tokens.values(), default=-1)
        if size > vocabulary:
            raise ConfigError(
                f"The tokenizer {path} has {size} tokens, the model {vocabulary}; take both from one revision."
            )
        self._begins_word = np.zeros(vocabulary, bool)
        self._speaks = np.zeros(vocabulary, bool)
        special = {id_ for id_, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        for token, id_ in tokens.items():
            self._begins_word[id_] = token.startswith(_SPACE)
            self._speaks[id_] = id_ not in special

    def read(self, clips: Sequence[tuple[Ints, Floats]], *, words: bool) -> list[Reading]:
        """Token ids and their posteriors of every clip → what they say; `words`: also word by word."""
        kept = [(ids[self._speaks[ids]], probabilities[self._speaks[ids]]) for ids, probabilities in clips]
        texts = [text.strip() for text in self._decode([ids for ids, _ in kept])]
        said = self._words(kept) if words else [()] * len(kept)
        return [
            Reading(text, float(probabilities.mean()) if text else None, spoken if text else ())
            for text, (_, probabilities), spoken in zip(texts, kept, said, strict=True)
        ]

    def _words(self, clips: Sequence[tuple[Ints, Floats]]) -> list[tuple[Word, ...]]:
        """All clips' words with one call of the tokenizer."""
        starts = [_word_starts(self._begins_word[ids]) for ids, _ in clips]
        pieces = [piece for (ids, _), at in zip(clips, starts, strict=True) for piece in _cut(ids, at)]
        texts = iter(self._decode(pieces))
        found: list[tuple[Word, ...]] = []
        for (_, probabilities), at in zip(clips, starts, strict=True):
            words = (Word(next(texts).strip(), confidence=float(p.mean())) for p in _cut(probabilities, at))
            found.append(tuple(word for word in words if word.word))
        return found

    def _decode(self, pieces: Sequence[Ints]) -> list[str]:
        found: list[str] = self._tokenizer.decode_batch([piece.tolist() for piece in pieces], skip_special_tokens=True)
        return found


def _word_starts(begins: npt.NDArray[np.bool_]) -> Ints:
    """Positions at which words begin; the first token begins one whatever it is."""
    starts = np.flatnonzero(begins)
    return np.union1d(starts, [0]).astype(np.int64) if len(begins) else starts


def _cut(values: npt.NDArray[ScalarT], starts: Ints) -> list[npt.NDArray[ScalarT]]:
    return np.split(values, starts[1:]) if len(starts) else []
