"""What can be said of an autoregressive Granite Speech checkpoint from the names of its files and its config.json alone.

Imports no heavy library and reads no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.engines.granite.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter, read_adapter
from pipeline.engines.granite.prompts import Version
from pipeline.engines.model_files import REVISION_DIGITS, ModelFiles
from pipeline.errors import ConfigError

CONFIG_FILE, TOKENIZER_FILE = "config.json", "tokenizer.json"
_WEIGHTS, _INDEX, _GENERATION = "model.safetensors", "model.safetensors.index.json", "generation_config.json"
DRAFT_HEAD = "out_llm.safetensors"  # published with 4.1 alone
_MAX_JSON_BYTES, _MAX_TOKENIZER_BYTES = 2**20, 64 * 2**20  # published: a few kB and 7 MB
_TAKE = (
    "take the folder of ibm-granite/granite-speech-4.1-2b, granite-4.0-1b-speech or granite-speech-3.3-2b as published"
)
_OTHERS = {
    "granite_speech": "granite",
    "granite_speech_plus": "granite-plus",
    "granite_speech_nar": "granite-nar",
    "nle": "granite-nar",
    "granite_speech5_ctc": "ctc",
}


@dataclass(frozen=True, slots=True)
class Family:
    """Which checkpoints an engine takes."""

    engine: str
    model_type: str
    take: str  # what to do where it is another one
    says_adapter: bool = True  # whether config.json tells that an adapter is needed, by default that one is
    merges_adapter: bool = False  # whether the engine can run one


GRANITE = Family("granite", "granite_speech", _TAKE, merges_adapter=True)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What can be said of a model without its weights."""

    model: str
    weights: tuple[str, ...]  # one file, or the shards that an index names
    files: tuple[str, ...]  # what loading needs, weights included
    version: Version | None  # None: its names do not tell
    positions: int  # longest sequence of the language model
    draft_head: str | None = None  # file with the head of the encoder's own tokens
    adapter: Adapter | None = None  # what is to be merged into the language model


def read_checkpoint(files: ModelFiles, family: Family = GRANITE) -> Checkpoint:
    """Raises ConfigError: files are missing, the model is of another type, or its adapter is none that can be merged."""
    names = files.names()
    small = [name for name in (CONFIG_FILE, _INDEX, _GENERATION, ADAPTER_CONFIG) if name in names]
    missing = [name for name in (CONFIG_FILE, TOKENIZER_FILE) if name not in names]
    if not names & {_WEIGHTS, _INDEX}:
        missing.append(_WEIGHTS)
    if missing:
        raise ConfigError(f"The model {files.model} lacks {', '.join(missing)}; {family.take}.")
    for name in (*small, TOKENIZER_FILE):
        most_bytes = _MAX_TOKENIZER_BYTES if name == TOKENIZER_FILE else _MAX_JSON_BYTES
        if files.size_bytes(name) > most_bytes:
            raise ConfigError(
                f"The {name} of {files.model} has {files.size_bytes(name)} bytes, which no published one comes near; "
                f"{family.take}."
            )
    folder = files.fetch(small)
    config = _read_json(files.model, folder / CONFIG_FILE)
    _check_type(files.model, config, family)
    adapter = _adapter(files.model, names, config, family, folder)
    weights = (_WEIGHTS,) if _WEIGHTS in names else _shards(files.model, _read_json(files.model, folder / _INDEX))
    lacking = [name for name in weights if name not in names]
    if lacking:
        raise ConfigError(f"The model {files.model} lacks {lacking[0]}, which {_INDEX} names; download it again.")
    return Checkpoint(
        model=files.model,
        weights=weights,
        files=(*small, TOKENIZER_FILE, *weights, *((ADAPTER_WEIGHTS,) if adapter else ())),
        version=_version(files.model, names),
        positions=_positions(files.model, config),
        draft_head=DRAFT_HEAD if DRAFT_HEAD in names else None,
        adapter=adapter,
    )


def revision_of(files: ModelFiles, weights: tuple[str, ...]) -> str:
    """12 hex digits that change with the files of the weights."""
    found = list(dict.fromkeys(files.revision(name) for name in weights))  # on the hub all are the commit's
    return found[0] if len(found) == 1 else sha256(" ".join(found).encode()).hexdigest()[:REVISION_DIGITS]


def _adapter(
    model: str, names: frozenset[str], config: Mapping[str, Any], family: Family, folder: Path
) -> Adapter | None:
    """What adapter_config.json describes; None: there is none, and none is missed."""
    if ADAPTER_CONFIG not in names and not (family.says_adapter and config.get("has_lora_adapter", True)):
        return None
    if not family.merges_adapter:
        raise ConfigError(
            f"The model {model} comes with a LoRA adapter, as granite-speech-3.3 does, "
            f"which the {family.engine} engine cannot run; {family.take}."
        )
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if name not in names]
    if missing:
        raise ConfigError(
            f"The model {model} lacks {missing[0]}: a LoRA adapter belongs to it (has_lora_adapter in {CONFIG_FILE}); "
            "download all its files."
        )
    return read_adapter(_read_json(model, folder / ADAPTER_CONFIG), model)


def _check_type(model: str, config: Mapping[str, Any], family: Family) -> None:
    kind = config.get("model_type")
    if kind == family.model_type:
        return
    other = _OTHERS.get(str(kind))
    step = f"set engine.name={other}" if other else family.take
    raise ConfigError(f"The model {model} is of the type {kind!r}, not {family.model_type!r}; {step}.")


def _version(model: str, names: frozenset[str]) -> Version | None:
    if "speech-3.3" in model:
        return "3.3"
    if DRAFT_HEAD in names or "speech-4.1" in model:
        return "4.1"
    return "4.0" if "granite-4.0" in model else None


def _positions(model: str, config: Mapping[str, Any]) -> int:
    text = config.get("text_config")
    found = text.get("max_position_embeddings") if isinstance(text, dict) else None
    scale = text.get("logits_scaling") if isinstance(text, dict) else None
    if not isinstance(found, int) or not isinstance(scale, int | float) or not scale > 0:
        raise ConfigError(
            f"The config.json of {model} lacks text_config.max_position_embeddings or logits_scaling; download it again."
        )
    return found


def _shards(model: str, index: Mapping[str, Any]) -> tuple[str, ...]:
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ConfigError(f"The {_INDEX} of {model} names no files; download it again.")
    return tuple(sorted(set(places.values())))


def _read_json(model: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The {path.name} of {model} cannot be read ({error}); download it again.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"The {path.name} of {model} holds no settings; download it again.")
    return found
