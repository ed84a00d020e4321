"""Which dialect a manifest is in, and what belongs to it: its files, its folder, its rows. docs/manifest.md lists them.

Every dialect gives the same: blocks of raw rows with the numbers of their lines. What the keys mean is `rows`' affair.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

from pipeline.audio.uri_policy import is_plain
from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.formats import Block, Complain, format_by_name, in_blocks, read_blocks, within
from pipeline.source.kaldi import files_of, kaldi_rows
from pipeline.source.lhotse import is_lhotse, lhotse_rows, recordings_beside
from pipeline.source.listing import Listed, first_look, is_audio, list_audio, list_files
from pipeline.source.opening import as_folder, digest, folder_of, is_local, kind_of, local_path, open_bytes, version
from pipeline.source.parquet import has_audio, parquet_blocks
from pipeline.source.rows import KEYS, Columns, Keys, named_by
from pipeline.source.sharded import expand
from pipeline.source.side_by_side import side_by_side
from pipeline.source.tarred import TARRED_KEYS, Item, is_shar, shar_rows, tar_beside, webdataset_rows

# Names of splits as Hugging Face knows them.
SPLITS = tuple(f"{top}{name}/" for top in ("", "data/") for name in ("train", "validation", "valid", "dev", "test"))
_METADATA = tuple(f"{place}metadata.{suffix}" for place in ("", *SPLITS) for suffix in ("csv", "jsonl", "parquet"))
_TABULAR = ("csv", "tsv")
_FOLDERS = ("kaldi", "audiofolder", "listing")
_IN_MANY_FILES = ("parquet", "webdataset", "shar")  # a folder of them is one manifest
_CUTS = re.compile(r"cuts(\.[^/]*)?\.jsonl(\.gz)?")
_FILES_AT_ONCE = 8


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
    kind: str = config.format
    beside: list[str] = []
    if kind == "auto":
        kind, beside = (name, beside) if (name := format_by_name(uri)) else _kind_of_folder(uri, config)
    elif kind == "audiofolder":
        beside = _metadata(first_look(uri, _METADATA, config)[1])
    if config.columns and kind in ("kaldi", "lhotse", "shar", "listing"):
        raise ManifestError(f"The manifest {uri} is of the format {kind}, which has no columns; drop source.columns.")
    if kind == "kaldi":
        return _kaldi(uri, config)
    if kind == "listing" or (kind == "audiofolder" and not beside):
        return _listing(uri, config)
    if kind == "audiofolder":
        return _audiofolder(uri, beside, config)
    if kind in ("webdataset", "shar"):
        return _tarred(uri, kind, config)
    if kind == "parquet" and _is_folder(uri, config):
        return _parquet_folder(uri, config)
    return _files(uri, kind, config)


def folder_of_rows(uri: str, config: SourceConfig) -> str:
    """Where relative paths of a manifest's rows start. Opens nothing."""
    if config.format in _FOLDERS or (config.format == "auto" and format_by_name(uri) is None):
        return as_folder(uri)
    if config.format in _IN_MANY_FILES and _has_no_name_of_its_kind(uri):
        return as_folder(uri)
    return folder_of(uri)


def _has_no_name_of_its_kind(uri: str) -> bool:
    return format_by_name(uri) not in (*_IN_MANY_FILES, "jsonl")


def _is_folder(uri: str, config: SourceConfig) -> bool:
    return _has_no_name_of_its_kind(uri) and kind_of(uri, config) == "directory"


def _kind_of_folder(uri: str, config: SourceConfig) -> tuple[str, list[str]]:
    """What a folder is, and of an audiofolder its metadata files. A few requests, however much lies there."""
    if kind_of(uri, config) == "file":
        raise ManifestError(
            f"The manifest {uri} does not tell its format by its name; "
            "set source.format to jsonl, csv, tsv, parquet or lhotse, or rename it."
        )
    folder = as_folder(uri)
    names, there = first_look(folder, {"wav.scp", *_METADATA}, config)
    if "wav.scp" in there:
        return "kaldi", []
    if beside := _metadata(there):
        return "audiofolder", beside
    cuts = next((name for name in names if _CUTS.fullmatch(name)), None)
    if cuts and is_shar(f"{folder}/{cuts}", config):
        return "shar", []
    kinds = {"audio" if is_audio(name) else format_by_name(name) for name in names}
    return next((kind for kind in ("webdataset", "parquet") if kind in kinds and "audio" not in kinds), "listing"), []


def _files(uri: str, kind: str, config: SourceConfig) -> Manifest:
    uris, folder = expand(uri), folder_of(uri)

    def read(complain: Complain) -> Iterator[Block]:
        for one in uris:
            place = one.rpartition("/")[2] if len(uris) > 1 else ""
            for block in _blocks(one, folder, kind, config, within(place, complain)):
                yield Block(block.numbers, block.rows, place)

    def digests() -> str:
        if kind == "parquet" and any(_holds_audio(one, config) for one in uris):
            return _digest_of_states(uris, config)
        beside = [recordings_beside(one, config) for one in uris if "supervisions" in one.rpartition("/")[2]]
        return _digest([*uris, *filter(None, beside)], config)

    return Manifest(uri, folder, "row" if kind == "parquet" else "line", named_by(config.columns), read, digests)


def _holds_audio(uri: str, config: SourceConfig) -> bool:
    with open_bytes(uri, config) as handle:
        return has_audio(handle, named_by(config.columns))


def _tarred(uri: str, kind: str, config: SourceConfig) -> Manifest:
    """WebDataset's tar files, or lhotse's Shar: by name, or all in a folder."""
    is_folder = _is_folder(uri, config)
    folder = as_folder(uri) if is_folder else folder_of(uri)

    def is_ours(file: Listed) -> bool:
        return bool(_CUTS.fullmatch(file.name)) if kind == "shar" else format_by_name(file.name) == "webdataset"

    def uris() -> Iterator[str]:
        listed = (f"{folder.rstrip('/')}/{file.name}" for file in list_files(folder, config) if is_ours(file))
        yield from listed if is_folder else expand(uri)

    work: Callable[[str], Iterator[Item]] = (
        partial(shar_rows, config=config) if kind == "shar" else partial(webdataset_rows, folder=folder, config=config)
    )

    def read(complain: Complain) -> Iterator[Block]:
        if is_folder and next(uris(), None) is None:
            raise ManifestError(f"The folder {uri} has no {kind} files in it; check the path.")
        several = is_folder or len(expand(uri)) > 1
        found = side_by_side(uris(), work, 1 if is_local(uri) else _FILES_AT_ONCE)
        return _blocks_of_items(found, folder if several else None, complain)

    def digests() -> str:
        if is_folder:
            return _digest_of_listing(folder, config)
        found = list(uris())
        return _digest_of_states([*found, *map(tar_beside, found)] if kind == "shar" else found, config)

    columns: Columns = {field: name for field, name in config.columns.items() if field != "uri"}
    noun, keys = ("line", KEYS) if kind == "shar" else ("sample", named_by(columns, TARRED_KEYS))
    return Manifest(uri, folder, noun, keys, read, digests)


def _blocks_of_items(found: Iterator[tuple[str, Item]], folder: str | None, complain: Complain) -> Iterator[Block]:
    """Blocks of the rows of one file each; the other items are complaints. `folder`: where several files lie."""
    for uri, items in groupby(found, itemgetter(0)):
        place = "" if folder is None else _below(uri, folder)
        for block in in_blocks(_rows_of(items, within(place, complain))):
            yield Block(block.numbers, block.rows, place)


def _rows_of(items: Iterator[tuple[str, Item]], complain: Complain) -> Iterator[tuple[int, dict[str, Any]]]:
    for _, (number, item) in items:
        if isinstance(item, str):
            complain(number, item)
        else:
            yield number, item


def _parquet_folder(uri: str, config: SourceConfig) -> Manifest:
    """Parquet files as `datasets` pushes them, all that lie below a folder."""
    folder = as_folder(uri)

    def names() -> Iterator[str]:
        return (file.name for file in list_files(folder, config) if format_by_name(file.name) == "parquet")

    def read(complain: Complain) -> Iterator[Block]:
        if next(names(), None) is None:
            raise ManifestError(f"The folder {uri} has no parquet files in it; check the path.")
        for name in names():
            for block in _blocks(f"{folder.rstrip('/')}/{name}", folder, "parquet", config, within(name, complain)):
                yield Block(block.numbers, block.rows, name)

    return Manifest(uri, folder, "row", named_by(config.columns), read, lambda: _digest_of_listing(folder, config))


def _below(uri: str, folder: str) -> str:
    """A file's name as seen from the manifest's folder."""
    return (local_path(uri) if is_local(uri) else uri).removeprefix(f"{folder.rstrip('/')}/")


def _blocks(uri: str, folder: str, kind: str, config: SourceConfig, complain: Complain) -> Iterator[Block]:
    """Of one file."""
    with open_bytes(uri, config) as handle:
        if kind == "parquet":
            container = local_path(uri) if is_local(uri) else uri
            for block in parquet_blocks(handle, container, _below(uri, folder), named_by(config.columns)):
                if block.rows:
                    _check_columns(uri, config.columns, block.rows[0])
                yield block
            return
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


def _audiofolder(uri: str, found: list[str], config: SourceConfig) -> Manifest:
    """Hugging Face's audiofolder: metadata beside the audio, in the folder or in one for each split."""
    folder = as_folder(uri)
    keys = {**KEYS, "uri": ("file_name",), "reference_text": (*KEYS["reference_text"], "transcription")}
    keys = named_by(config.columns, keys)

    def read(complain: Complain) -> Iterator[Block]:
        for name in found:
            place, split = name if len(found) > 1 else "", name.rpartition("/")[0]
            kind, told = format_by_name(name) or "", within(place, complain)
            for block in _blocks(f"{folder}/{name}", folder, kind, config, told):
                yield Block(block.numbers, [_in_split(row, keys["uri"][0], split) for row in block.rows], place)

    noun = "row" if all(format_by_name(name) == "parquet" for name in found) else "line"
    return Manifest(uri, folder, noun, keys, read, lambda: _digest([f"{folder}/{name}" for name in found], config))


def _metadata(there: Collection[str]) -> list[str]:
    """The metadata files of an audiofolder, among the files that are there: its own, else those of its splits."""
    found = [name for name in _METADATA if name in there]
    return [name for name in found if "/" not in name] or found


def _in_split(row: dict[str, Any], key: str, split: str) -> dict[str, Any]:
    name = row.get(key)
    return {**row, key: f"{split}/{name}"} if split and isinstance(name, str) and name else row


def _spelt_out(name: str) -> str:
    """A file's name as a row can hold it. One with line breaks or bytes that are no text becomes a row that is not found:
    it is seen, and stops nobody else's."""
    if is_plain(name):
        return name
    return "".join(letter if is_plain(letter) else ascii(letter)[1:-1] for letter in name)


def _listing(uri: str, config: SourceConfig) -> Manifest:
    folder = as_folder(uri)

    def read(complain: Complain) -> Iterator[Block]:
        return in_blocks(enumerate(({"uri": _spelt_out(name)} for name in list_audio(folder, config)), 1))

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


def _digest_of_states(uris: list[str], config: SourceConfig) -> str:
    """Of files that hold audio: what their store says of their state, for to read them would be to read the archive."""
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        states = pool.map(lambda uri: f"{uri} {version(uri, config)}", uris)
        return _joined(states, config)


def _digest_of_listing(folder: str, config: SourceConfig) -> str:
    return _joined((f"{file.name} {file.size_bytes} {file.version}" for file in list_files(folder, config)), config)


def _joined(states: Iterable[str], config: SourceConfig) -> str:
    state = hashlib.sha256()
    for one in states:
        state.update(one.encode(errors="surrogateescape") + b"\n")
    state.update(json.dumps(config.columns, sort_keys=True).encode())
    return state.hexdigest()
