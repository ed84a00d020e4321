"""What goes to vLLM and what comes back: prompts as tokens, clips of few lengths, completions as answers. Pure; knows no vLLM.

Names and types are those of vLLM 0.32: `TokensPrompt` with `multi_modal_data`, and `CompletionOutput`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.engines.granite.prompts import AFTER_INSTRUCTION, BEFORE_AUDIO
from pipeline.engines.granite.repetition import cut_loop
from pipeline.errors import ConfigError, EngineError
from pipeline.records import SAMPLE_RATE_HZ, Samples

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_AUDIO = "<|audio|>"
_FULL_SCALE = 32_768
_REASONS = {"stop": "eos", "length": "length"}


class Completion(Protocol):
    """The part of vLLM's CompletionOutput that is read."""

    @property
    def token_ids(self) -> Sequence[int]:
        """The tokens, perhaps with the end token."""
        ...

    @property
    def logprobs(self) -> Sequence[Mapping[int, Any]] | None:
        """For every token at least its own `Logprob`, which has a `logprob`."""
        ...

    @property
    def finish_reason(self) -> str | None:
        """stop, length, or what went wrong."""
        ...


class Answer(NamedTuple):
    """What the model wrote, without special tokens: text, mean probability (None without any), number of tokens, why it ended."""

    text: str
    confidence: float | None
    n_tokens: int
    stop_reason: str


class Words:
    """The model's tokenizer, for which the words of a row are never special tokens. Raises ConfigError."""

    def __init__(self, file: Path, model: str) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - the library raises plain Exceptions
            raise ConfigError(f"The {file.name} of {model} cannot be read ({error}); download it again.") from None
        audio = self._tokenizer.token_to_id(_AUDIO)
        if audio is None:
            raise ConfigError(f"The {file.name} of {model} has no token {_AUDIO}; take all files from one revision.")
        self._audio: int = audio
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)

    def count(self, instruction: str) -> int:
        """Positions that an instruction takes in a prompt."""
        return len(self._encode(instruction + AFTER_INSTRUCTION))

    def prompt(self, instruction: str) -> list[int]:
        """A whole prompt, with one token where vLLM puts the audio."""
        return [*self._encode(BEFORE_AUDIO), self._audio, *self._encode(instruction + AFTER_INSTRUCTION)]

    def read(self, completion: Completion) -> Answer:
        """The answer, cut after the first turn of a circle if it goes round in one. Raises EngineError: vLLM gave it up."""
        reason = _REASONS.get(str(completion.finish_reason))
        if reason is None:
            raise EngineError("engine_error", f"vLLM ended a request with {completion.finish_reason!r}.")
        ids = list(completion.token_ids)
        kept = _first_loop(ids)
        if kept is not None:
            ids, reason = ids[:kept], "loop"
        sure = [
            math.exp(chances[token].logprob)
            for token, chances in zip(ids, completion.logprobs or (), strict=False)
            if token not in self._special
        ]
        text = self._tokenizer.decode(ids, skip_special_tokens=True).strip()
        n_tokens = sum(token not in self._special for token in ids)
        return Answer(text, min(sum(sure) / len(sure), 1.0) if sure and text else None, n_tokens, reason)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def pad_clip(clip: Samples, pad_to_s: float) -> npt.NDArray[np.float32]:
    """The clip as floats in [-1, 1), with silence up to the next multiple of `pad_to_s`.

    vLLM's encoder pads the clips of a step to the longest without a mask (granite_speech.py of 0.32), so that batch mates of
    other lengths would change a clip's text. Clips of one length need no padding there, and few lengths make large batches.
    """
    unit = max(round(pad_to_s * SAMPLE_RATE_HZ), 1)
    found = np.zeros(-(-len(clip) // unit) * unit, np.float32)
    found[: len(clip)] = clip.astype(np.float32) / _FULL_SCALE
    return found


def _first_loop(ids: Sequence[int]) -> int | None:
    """How many tokens to keep of a text that goes round in a circle anywhere: vLLM cannot be told to stop there."""
    for end in range(1, len(ids) + 1):
        kept = cut_loop(ids[:end])
        if kept is not None:
            return kept
    return None
