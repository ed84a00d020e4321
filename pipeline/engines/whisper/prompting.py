"""What the decoder is given before the text: start, language, task, and the words that the row or the config want known.

Imports faster-whisper late, whose view of the tokenizer this is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

CONTEXT_TOKENS = 448  # of the decoder: prompt and text
_PROMPT_TOKENS = CONTEXT_TOKENS // 2 - 5  # of keywords: half the context less start, language, task, no times, mark


class Vocabulary:
    """A model's tokenizer, told what is asked of chunks. Raises bare Exceptions for a file that cannot be read.

    `task`: of chunks that name none.
    """

    def __init__(
        self,
        file: Path,
        *,
        multilingual: bool,
        task: Literal["transcribe", "translate"],
        timestamps: bool,
        prompt: str,
    ) -> None:
        import tokenizers

        self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self._multilingual, self.task, self._timestamps, self._prompt = multilingual, task, timestamps, prompt.strip()
        self.of = lru_cache(maxsize=128)(self._view)

    def prompt(self, language: str, keywords: Sequence[str], task: str | None = None) -> list[int]:
        """The tokens before the text. Keywords beyond what the model can hold are cut."""
        tokens = self.of(language, task or self.task)
        start = [*tokens.sot_sequence, *([] if self._timestamps else [tokens.no_timestamps])]
        context = " ".join(filter(None, [self._prompt, ", ".join(keywords)]))
        return [tokens.sot_prev, *tokens.encode(" " + context)[:_PROMPT_TOKENS], *start] if context else start

    def suppressed(self) -> list[int]:
        """Tokens that are no speech, as faster-whisper has them: marks, speaker tags, and the prompt's own tokens."""
        from faster_whisper.transcribe import get_suppressed_tokens

        return list(get_suppressed_tokens(self.of("en"), [-1]) or ())

    def _view(self, language: str, task: str | None = None) -> Any:
        """The tokenizer as faster-whisper wraps it, for one language and task."""
        from faster_whisper.tokenizer import Tokenizer

        return Tokenizer(self._tokenizer, self._multilingual, task or self.task, language)


def group_equal(keys: Sequence[Hashable]) -> list[list[int]]:
    """Positions with equal keys, together."""
    found: defaultdict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        found[key].append(row)
    return list(found.values())
