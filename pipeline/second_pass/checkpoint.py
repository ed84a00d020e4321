"""What can be said of a language model from the names of its files and its JSON files alone.

Imports no heavy library and reads no weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import SecondPassConfig
from pipeline.engines.granite.checkpoint import CONFIG_FILE, TOKENIZER_FILE, revision_of
from pipeline.engines.model_files import ModelFiles, find_model
from pipeline.errors import ConfigError
from pipeline.second_pass.prompts import MarkupName, choose_markup

_WEIGHTS, _INDEX, _GENERATION = "model.safetensors", "model.safetensors.index.json", "generation_config.json"
_ADAPTER = "adapter_config.json"
_MAX_JSON_BYTES, _MAX_TOKENIZER_BYTES = 8 * 2**20, 128 * 2**20
_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_CAUSAL = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """What can be said of a model without its weights."""

    model: str
    revision: str
    files: tuple[str, ...]  # what loading needs
    context: int | None  # positions; None: its config.json sets no limit
    markup: MarkupName


def read_language_model(config: SecondPassConfig) -> tuple[ModelFiles, LanguageModel]:
    """The model that the settings name, and where its files lie.

    Raises ConfigError: none is named, files are missing, or it is not a causal language model that can be run here.
    """
    if not config.model:
        raise ConfigError("There is no model to ask; set second_pass.model to a folder, or to hf://owner/name@commit.")
    with second_pass_words():
        files = find_model(config.model, config.storage_options)
        names = files.names()
        _check_names(files.model, names)
        small = [name for name in (CONFIG_FILE, _INDEX, _GENERATION, TOKENIZER_FILE) if name in names]
        for name in small:
            most_bytes = _MAX_TOKENIZER_BYTES if name == TOKENIZER_FILE else _MAX_JSON_BYTES
            if files.size_bytes(name) > most_bytes:
                raise ConfigError(f"The {name} of {files.model} has over {most_bytes} bytes; download it again.")
        folder = files.fetch(small)
        settings = _read_json(files.model, folder / CONFIG_FILE)
        _check_kind(files.model, settings)
        weights = _weights(files.model, names, folder)
        revision = config.revision or revision_of(files, weights)
        special = _special_tokens(files.model, _read_json(files.model, folder / TOKENIZER_FILE))
        markup = choose_markup(config.markup, special, files.model)
        found = tuple(dict.fromkeys([*small, *weights]))
        return files, LanguageModel(files.model, revision, found, _context(settings), markup)


@contextmanager
def second_pass_words() -> Iterator[None]:
    """Name the settings of this section in what is raised: the places where models are found speak of engines."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error).replace("engine.", "second_pass.")) from None


def _check_names(model: str, names: frozenset[str]) -> None:
    if _ADAPTER in names:
        raise ConfigError(f"The model {model} holds an adapter; merge it into its base model, and take that folder.")
    missing = [name for name in (CONFIG_FILE, TOKENIZER_FILE) if name not in names]
    if not names & {_WEIGHTS, _INDEX}:
        missing.append(_WEIGHTS)
    if missing:
        raise ConfigError(
            f"The model {model} lacks {', '.join(missing)}; take a causal language model of transformers in safetensors."
        )


def _check_kind(model: str, settings: Mapping[str, Any]) -> None:
    if "auto_map" in settings:
        raise ConfigError(f"The model {model} comes with code of its own (auto_map), which is never run; take another.")
    if settings.get("quantization_config"):
        raise ConfigError(f"The model {model} is quantised, which cannot be run here; take its plain weights.")
    kinds = settings.get("architectures")
    kind = kinds[0] if isinstance(kinds, list) and kinds else None
    if not isinstance(kind, str) or not kind.endswith(_CAUSAL):
        raise ConfigError(
            f"The model {model} is of the kind {kind!r}, not a causal language model; take one such as GraniteForCausalLM."
        )


def _weights(model: str, names: frozenset[str], folder: Path) -> tuple[str, ...]:
    if _WEIGHTS in names:
        return (_WEIGHTS,)
    places = _read_json(model, folder / _INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ConfigError(f"The {_INDEX} of {model} names no files; download it again.")
    found = tuple(sorted(set(places.values())))
    lacking = [name for name in found if name not in names]
    if lacking:
        raise ConfigError(f"The model {model} lacks {lacking[0]}, which {_INDEX} names; download it again.")
    return found


def _context(settings: Mapping[str, Any]) -> int | None:
    found = [settings[name] for name in _CONTEXT_FIELDS if isinstance(settings.get(name), int) and settings[name] > 0]
    return int(found[0]) if found else None


def _special_tokens(model: str, tokenizer: Mapping[str, Any]) -> frozenset[str]:
    added = tokenizer.get("added_tokens")
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ConfigError(f"The {TOKENIZER_FILE} of {model} has no list of added_tokens; download it again.")
    return frozenset(str(token.get("content")) for token in added)


def _read_json(model: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The {path.name} of {model} cannot be read ({error}); download it again.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"The {path.name} of {model} holds no settings; download it again.")
    return found
