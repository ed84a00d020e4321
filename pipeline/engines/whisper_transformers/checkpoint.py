"""What a Whisper folder in Hugging Face format says of itself: sizes, languages, alignment heads. All of it is checked.

Of config.json only the sizes below reach transformers, and of generation_config.json only the alignment heads: what is
suppressed, forced or sampled is the engine's own affair. Imports no heavy library and reads no weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.engines.model_files import REVISION_DIGITS, ModelFiles
from pipeline.engines.requests import WHISPER_LANGUAGES
from pipeline.engines.whisper.card import ModelCard
from pipeline.engines.whisper.prompting import CONTEXT_TOKENS
from pipeline.errors import ConfigError

TOKENIZER_FILE = "tokenizer.json"
_CONFIG, _GENERATION = "config.json", "generation_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_CT2_WEIGHTS = "model.bin"
_MAX_JSON_BYTES, _MAX_TOKENIZER_BYTES = (
    2**20,
    16 * 2**20,
)  # published: a few kB (the largest index: 0.1 MB) and 2 to 4 MB
_TAKE = "take a folder as `save_pretrained` of transformers writes it, such as openai/whisper-large-v3-turbo"
_LANGUAGE_TOKEN = re.compile(r"<\|([a-z]{2,3})\|>")
_ENGLISH_TOKENS = 51_864  # vocabularies of more are multilingual

# The largest published model has 32 layers of width 1280; far more is a lie that would fill the memory before it is found out.
_SIZES = {
    "vocab_size": (_ENGLISH_TOKENS, 60_000),
    "num_mel_bins": (80, 128),
    "d_model": (8, 8192),
    "encoder_layers": (1, 256),
    "encoder_attention_heads": (1, 256),
    "encoder_ffn_dim": (8, 65_536),
    "decoder_layers": (1, 256),
    "decoder_attention_heads": (1, 256),
    "decoder_ffn_dim": (8, 65_536),
    "max_source_positions": (1500, 1500),  # 30 s
    "max_target_positions": (CONTEXT_TOKENS, CONTEXT_TOKENS),
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What can be said of a model without its weights."""

    model: str
    card: ModelCard
    sizes: Mapping[str, int]  # fields of a WhisperConfig
    alignment_heads: tuple[tuple[int, int], ...]  # (decoder layer, head); empty: it names none
    language_tokens: Mapping[str, int]  # empty: English alone
    weights: tuple[str, ...]  # one file, or the shards that an index names
    files: tuple[str, ...]  # what loading needs, weights included


def read_checkpoint(files: ModelFiles) -> Checkpoint:
    """Raises ConfigError: files are missing, too large or unreadable, or the model is not a Whisper that can be run."""
    names = files.names()
    _check_names(files.model, names)
    small = [name for name in (_CONFIG, TOKENIZER_FILE, _INDEX, _GENERATION) if name in names]
    for name in small:
        most_bytes = _MAX_TOKENIZER_BYTES if name == TOKENIZER_FILE else _MAX_JSON_BYTES
        if files.size_bytes(name) > most_bytes:
            raise ConfigError(
                f"The {name} of {files.model} has {files.size_bytes(name)} bytes, which no published one comes near; {_TAKE}."
            )
    folder = files.fetch(small)
    sizes = _sizes(files.model, _read_json(files.model, folder / _CONFIG))
    weights = (_WEIGHTS,) if _WEIGHTS in names else _shards(files.model, _read_json(files.model, folder / _INDEX))
    lacking = [name for name in weights if name not in names]
    if lacking:
        raise ConfigError(f"The model {files.model} lacks {lacking[0]}, which {_INDEX} names; download it again.")
    settings = _read_json(files.model, folder / _GENERATION) if _GENERATION in small else {}
    heads = _alignment_heads(files.model, settings, sizes)
    tokens = _language_tokens(files.model, _read_json(files.model, folder / TOKENIZER_FILE), sizes)
    card = ModelCard(
        revision=_revision(files, weights),
        languages=frozenset(tokens) or frozenset({"en"}),
        multilingual=bool(tokens),
        can_align=bool(heads),
        weights_bytes=sum(files.size_bytes(name) for name in weights),
        licence="unknown",
    )
    return Checkpoint(files.model, card, sizes, heads, tokens, weights, (TOKENIZER_FILE, *weights))


def _check_names(model: str, names: frozenset[str]) -> None:
    missing = [name for name in (_CONFIG, TOKENIZER_FILE) if name not in names]
    if not names & {_WEIGHTS, _INDEX}:
        if _CT2_WEIGHTS in names:
            raise ConfigError(f"The model {model} is in CTranslate2's format; set engine.name=whisper.")
        missing.append(_WEIGHTS)
    if missing:
        raise ConfigError(f"The model {model} lacks {', '.join(missing)}; {_TAKE}.")
    if _ADAPTER in names:
        raise ConfigError(f"The model {model} comes with an adapter, which is not loaded; merge it into the weights.")


def _sizes(model: str, config: Mapping[str, Any]) -> dict[str, int]:
    kind = config.get("model_type")
    if kind != "whisper":
        raise ConfigError(f"The model {model} is of the type {kind!r}, not 'whisper'; {_TAKE}.")
    if config.get("quantization_config") is not None:
        raise ConfigError(f"The weights of {model} are quantized, which this engine cannot read; {_TAKE}.")
    if config.get("activation_function", "gelu") != "gelu":
        raise ConfigError(f"The config.json of {model} asks for another activation than Whisper's gelu; {_TAKE}.")
    found: dict[str, int] = {}
    for name, (least, most) in _SIZES.items():
        value = config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ConfigError(
                f"The config.json of {model} says {name} {value!r:.40}, and {least} to {most} can be; download it again."
            )
        found[name] = value
    for side in ("encoder", "decoder"):
        if found["d_model"] % found[f"{side}_attention_heads"]:
            raise ConfigError(f"The config.json of {model} divides d_model unevenly among heads; download it again.")
    return found


def _alignment_heads(model: str, settings: Mapping[str, Any], sizes: Mapping[str, int]) -> tuple[tuple[int, int], ...]:
    listed = settings.get("alignment_heads")
    if listed is None:
        return ()
    limits = (sizes["decoder_layers"], sizes["decoder_attention_heads"])
    if not isinstance(listed, list) or not all(_is_head(one, limits) for one in listed):
        raise ConfigError(
            f"The {_GENERATION} of {model} names alignment_heads that the model does not have; download it again."
        )
    return tuple(dict.fromkeys((layer, head) for layer, head in listed))


def _is_head(one: Any, limits: tuple[int, int]) -> bool:
    whole = isinstance(one, list) and len(one) == 2 and all(type(number) is int for number in one)
    return whole and all(0 <= number < limit for number, limit in zip(one, limits, strict=True))


def _language_tokens(model: str, tokenizer: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, int]:
    """Languages that have a token; none where the vocabulary is English, whose tokenizer lists them all the same."""
    if sizes["vocab_size"] <= _ENGLISH_TOKENS:
        return {}
    found: dict[str, int] = {}
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        content, number = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        match = _LANGUAGE_TOKEN.fullmatch(content) if isinstance(content, str) else None
        if match and match[1] in WHISPER_LANGUAGES and isinstance(number, int) and 0 <= number < sizes["vocab_size"]:
            found[match[1]] = number
    if "en" not in found:
        raise ConfigError(
            f"The {TOKENIZER_FILE} of {model} has no tokens for languages; take both files from one revision."
        )
    return found


def _revision(files: ModelFiles, weights: tuple[str, ...]) -> str:
    """12 hex digits that change with the files of the weights."""
    found = list(dict.fromkeys(files.revision(name) for name in weights))  # on the hub all are the commit's
    return found[0] if len(found) == 1 else sha256(" ".join(found).encode()).hexdigest()[:REVISION_DIGITS]


def _shards(model: str, index: Mapping[str, Any]) -> tuple[str, ...]:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ConfigError(f"The {_INDEX} of {model} names no files; download it again.")
    found = tuple(sorted(set(places.values())))
    if not all(name.endswith(".safetensors") for name in found):
        raise ConfigError(f"The {_INDEX} of {model} names files that are no safetensors; {_TAKE}.")
    return found


def _read_json(model: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The {path.name} of {model} cannot be read ({error}); download it again.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"The {path.name} of {model} holds no settings; download it again.")
    return found
