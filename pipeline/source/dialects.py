"""Which dialect a manifest is in, and what belongs to it: its files, its folder, its rows. docs/manifest.md lists them.

Every dialect gives the same: blocks of raw rows with the numbers of their lines. What the keys mean is `rows`' affair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.formats import Block, Complain, format_by_name, in_blocks, read_blocks, within
from pipeline.source.kaldi import files_of, kaldi_rows
from pipeline.source.lhotse import is_lhotse, lhotse_rows, recordings_beside
from pipeline.source.listing import list_audio
from pipeline.source.opening import as_folder, digest, folder_of, kind_of, open_bytes
from pipeline.source.rows import KEYS, Columns, Keys, named_by
from pipeline.source.sharded import expand

# Names of splits as Hugging Face knows them.
SPLITS = tuple(f"{top}{name}/" for top in ("", "data/") for name in ("train", "validation", "valid", "dev", "test"))
_TABULAR = ("csv", "tsv", "parquet")
_FOLDERS = ("kaldi", "audiofolder", "listing")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest whose dialect is known. `read` opens it anew each time and raises ManifestError if it cannot."""

    uri: str
    folder: str  # where relative paths start
    noun: str  # what `Complain` numbers: line | row | file
    keys: Keys
    read: Callable[[Complain], Iterator[Block]]
    digest: Callable[[], str]


def open_manifest(uri: str, config: SourceConfig) -> Manifest:
    """The manifest at `uri`. Raises ManifestError when nothing tells its dialect, or it has no columns to be named."""
    kind = config.format if config.format != "auto" else format_by_name(uri) or _kind_of_folder(uri, config)
    if config.columns and kind in ("kaldi", "lhotse", "listing"):
        raise ManifestError(f"The manifest {uri} is of the format {kind}, which has no columns; drop source.columns.")
    if kind == "kaldi":
        return _kaldi(uri, config)
    if kind == "listing" or (kind == "audiofolder" and not metadata_files(uri, config)):
        return _listing(uri, config)
    return _audiofolder(uri, config) if kind == "audiofolder" else _files(uri, kind, config)


def folder_of_rows(uri: str, config: SourceConfig) -> str:
    """Where relative paths of a manifest's rows start. Opens nothing."""
    if config.format in _FOLDERS or (config.format == "auto" and format_by_name(uri) is None):
        return as_folder(uri)
    return folder_of(uri)


def _kind_of_folder(uri: str, config: SourceConfig) -> str:
    if kind_of(uri, config) == "file":
        raise ManifestError(
            f"The manifest {uri} does not tell its format by its name; "
            "set source.format to jsonl, csv, tsv, parquet or lhotse, or rename it."
        )
    return "kaldi" if kind_of(f"{as_folder(uri)}/wav.scp", config) == "file" else "audiofolder"


def _files(uri: str, kind: str, config: SourceConfig) -> Manifest:
    uris = expand(uri)

    def read(complain: Complain) -> Iterator[Block]:
        for one in uris:
            place = one.rpartition("/")[2] if len(uris) > 1 else ""
            for block in _blocks(one, kind, config, within(place, complain)):
                yield Block(block.numbers, block.rows, place)

    def digests() -> str:
        beside = [recordings_beside(one, config) for one in uris if "supervisions" in one.rpartition("/")[2]]
        return _digest([*uris, *filter(None, beside)], config)

    return Manifest(
        uri, folder_of(uri), "row" if kind == "parquet" else "line", named_by(config.columns), read, digests
    )


def _blocks(uri: str, kind: str, config: SourceConfig, complain: Complain) -> Iterator[Block]:
    """Of one file."""
    with open_bytes(uri, config) as handle:
        told = config.format == "auto" and not config.columns and kind == "jsonl"
        if kind == "lhotse" or (told and is_lhotse(handle.peek(1))):
            yield from in_blocks(lhotse_rows(uri, handle, config, complain))
            return
        for block in read_blocks(handle, kind, complain):
            if kind in _TABULAR and block.rows:
                _check_columns(uri, config.columns, block.rows[0])
            yield block


def _kaldi(uri: str, config: SourceConfig) -> Manifest:
    folder = as_folder(uri)

    def read(complain: Complain) -> Iterator[Block]:
        main = "segments" if "segments" in files_of(folder, config) else "wav.scp"
        for block in in_blocks(kaldi_rows(folder, config, complain)):
            yield Block(block.numbers, block.rows, main)

    return Manifest(
        uri,
        folder,
        "line",
        KEYS,
        read,
        lambda: _digest([f"{folder}/{name}" for name in files_of(folder, config)], config),
    )


def _audiofolder(uri: str, config: SourceConfig) -> Manifest:
    """Hugging Face's audiofolder: metadata beside the audio, in the folder or in one for each split."""
    folder, found = as_folder(uri), metadata_files(uri, config)
    keys = {**KEYS, "uri": ("file_name",), "reference_text": (*KEYS["reference_text"], "transcription")}
    keys = named_by(config.columns, keys)

    def read(complain: Complain) -> Iterator[Block]:
        for name in found:
            place, split = name if len(found) > 1 else "", name.rpartition("/")[0]
            for block in _blocks(f"{folder}/{name}", format_by_name(name) or "", config, within(place, complain)):
                yield Block(block.numbers, [_in_split(row, keys["uri"][0], split) for row in block.rows], place)

    return Manifest(uri, folder, "row", keys, read, lambda: _digest([f"{folder}/{name}" for name in found], config))


def metadata_files(uri: str, config: SourceConfig) -> list[str]:
    """The metadata files of an audiofolder, below it: its own, else those of its splits."""
    folder = as_folder(uri)
    for places in (("",), SPLITS):
        names = [f"{place}metadata.{suffix}" for place in places for suffix in ("csv", "jsonl", "parquet")]
        if found := [name for name in names if kind_of(f"{folder}/{name}", config) == "file"]:
            return found
    return []


def _in_split(row: dict[str, Any], key: str, split: str) -> dict[str, Any]:
    name = row.get(key)
    return {**row, key: f"{split}/{name}"} if split and isinstance(name, str) and name else row


def _listing(uri: str, config: SourceConfig) -> Manifest:
    folder = as_folder(uri)

    def read(complain: Complain) -> Iterator[Block]:
        return in_blocks(enumerate(({"uri": name} for name in list_audio(folder, config)), 1))

    def digests() -> str:
        state = hashlib.sha256()
        for name in list_audio(folder, config):
            state.update(name.encode(errors="surrogateescape") + b"\n")
        return state.hexdigest()

    return Manifest(uri, folder, "file", KEYS, read, digests)


def _check_columns(uri: str, columns: Columns, row: Mapping[str, object]) -> None:
    for field, name in columns.items():
        if name not in row:
            there = ", ".join(row)
            raise ManifestError(
                f"The manifest {uri} has no column {name!r} (source.columns.{field}); "
                f"it has {there if len(there) <= 300 else there[:300] + '…'}."
            )


def _digest(uris: Iterable[str], config: SourceConfig) -> str:
    """Of one file, the sha256 of its bytes; of several, that of their digests. Other columns are another manifest."""
    parts = [digest(uri, config) for uri in uris]
    if config.columns:
        parts.append(json.dumps(config.columns, sort_keys=True))
    return parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()
