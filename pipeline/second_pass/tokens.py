"""Prompts to tokens and back. What a transcript says is never a control token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.engines.granite.recognizer import read_tokenizer
from pipeline.errors import AnswerError
from pipeline.second_pass.prompts import Control, Pieces

_PROBE = "a"


class PromptTokenizer:
    """The tokenizer of a model, asked in two ways: texts are plain text, control tokens are looked up by name."""

    def __init__(self, folder: Path, model: str, config: Any) -> None:
        """`config` is the model's, as transformers reads it. Raises ConfigError."""
        self._writing = read_tokenizer(folder, model, config)
        self._reading = read_tokenizer(folder, model, config)
        # Tokens such as <think> or <tool_call> steer a model as well, but are not marked as special in all tokenizers: in this
        # one they are, and what is special is not looked for in a text. Runs of spaces are added tokens too in some.
        added = self._reading.get_added_tokens_decoder()
        self._reading.add_special_tokens([token.content for token in added.values() if token.content.strip()])
        self._reading.encode_special_tokens = True
        self._control = frozenset(number for number, token in added.items() if token.special) - self._unknown()
        with_start = self._reading.encode(_PROBE, add_special_tokens=True).ids
        plain = self._reading.encode(_PROBE, add_special_tokens=False).ids
        self.start: tuple[int, ...] = tuple(with_start[: _find(with_start, plain)])  # what every prompt begins with

    def encode(self, pieces: Pieces) -> list[int]:
        """Token ids, without `start`. Raises AnswerError where a text comes out as a control token."""
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, Control):
                ids.append(self.control_id(piece.token))
                continue
            found = self._reading.encode(piece, add_special_tokens=False).ids
            if not self._control.isdisjoint(found):
                raise AnswerError(
                    "text_unreadable",
                    "The model's tokenizer reads a control token out of the text; take another model.",
                )
            ids += found
        return ids

    def count(self, pieces: Pieces) -> int:
        """How many tokens they are."""
        return len(self.encode(pieces))

    def decode(self, ids: Sequence[int]) -> str:
        """What a model wrote, without its special tokens."""
        return self._writing.decode(list(ids), skip_special_tokens=True).strip()

    def control_id(self, token: str) -> int:
        """The id of a control token that the model has."""
        found = self._reading.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no {token}")
        return found

    def _unknown(self) -> set[int]:
        """The token for what the vocabulary lacks stands for text."""
        found = self._reading.token_to_id(getattr(self._reading.model, "unk_token", None) or "<unk>")
        return set() if found is None else {found}


def _find(ids: Sequence[int], wanted: Sequence[int]) -> int:
    """Where `wanted` begins in `ids`; 0 where it does not stand there as it is."""
    for at in range(len(ids) - len(wanted) + 1):
        if list(ids[at : at + len(wanted)]) == list(wanted):
            return at
    return 0
