"""Drafts of the answers from the encoder's own CTC hypothesis: which head, what it spells, and which are worth a try.

The language model has the last word (`decoding.decode_greedily`); a draft is a guess at its text, raw and in lowercase.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.engines.granite.drafting import Draft
from pipeline.engines.granite_nar.collapse import Ints, Tokens
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

_LATIN_1, _FIRST_KATAKANA = 256, 0x30A1  # characters of the head: Latin-1 by its code, then Katakana


@dataclass(frozen=True, slots=True)
class Speculation:
    """How drafts are made and used."""

    head: str | None  # the file with a head that spells tokens; None: the encoder's own, which spells characters
    least_confidence: float  # mean posterior of a draft's labels below which it is not tried
    keep_draft: float | None = None  # see `decode_greedily`


def read_draft_head(path: Path, model: str, hidden: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Weight [labels, hidden] and bias of the head that spells tokens. Raises ConfigError."""
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except Exception as error:  # noqa: BLE001 - broken files raise what they like
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"The {path.name} of {model} cannot be read ({reason}); download it again.") from None
    weight, bias = found.get("weight"), found.get("bias")
    if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ConfigError(f"The {path.name} of {model} holds no weight with a bias; download it again.")
    if weight.shape[1] != hidden or not 1 < weight.shape[0] <= vocabulary + 1:
        raise ConfigError(
            f"The {path.name} of {model} is of the shape {list(weight.shape)}, but the encoder has {hidden} channels and the "
            f"language model {vocabulary} tokens; take all files from one revision."
        )
    return weight, bias


def write_drafts(
    labels: Tokens, wanted: Iterable[bool], tokenizer: Tokenizer, settings: Speculation
) -> list[Draft | None]:
    """A draft for every wanted clip whose labels are sure enough; None for the others."""
    found: list[Draft | None] = []
    for ids, probabilities, asked in zip(labels.split(), labels.split_probabilities(), wanted, strict=True):
        sure = asked and len(ids) > 0 and float(probabilities.mean()) >= settings.least_confidence
        found.append(_write(ids, tokenizer, settings) if sure else None)
    return found


def spell(labels: Iterable[int]) -> str:
    """The text of the encoder's character labels."""
    return "".join(chr(one if one < _LATIN_1 else _FIRST_KATAKANA + one - _LATIN_1) for one in labels)


def _write(ids: Ints, tokenizer: Tokenizer, settings: Speculation) -> Draft | None:
    """Through the text, as published: the language model splits words into tokens in its own way and begins with no space."""
    listed = ids.tolist()
    text = spell(listed) if settings.head is None else tokenizer.decode(listed, skip_special_tokens=True)
    tokens = tokenizer.encode(text.strip(), add_special_tokens=False).ids
    return Draft(tokens) if tokens else None
