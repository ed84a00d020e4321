"""Which dialect a manifest is in, and what belongs to it: its files, its folder, its rows. docs/manifest.md lists them.

Every dialect gives the same: blocks of raw rows with the numbers of their lines. What the keys mean is `rows`' affair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.formats import Block, Complain, format_by_name, read_blocks, within
from pipeline.source.opening import digest, folder_of, open_bytes
from pipeline.source.rows import Keys, named_by
from pipeline.source.sharded import expand

_TABULAR = ("csv", "tsv", "parquet")


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
    """The manifest at `uri`. Raises ManifestError when nothing tells its dialect."""
    kind = config.format if config.format != "auto" else format_by_name(uri)
    if kind is None:
        raise ManifestError(
            f"The manifest {uri} does not tell its format by its name; "
            "set source.format to jsonl, csv, tsv or parquet, or rename it."
        )
    return _files(uri, kind, config)


def folder_of_rows(uri: str, config: SourceConfig) -> str:
    """Where relative paths of a manifest's rows start. Opens nothing."""
    return folder_of(uri)


def _files(uri: str, kind: str, config: SourceConfig) -> Manifest:
    uris = expand(uri)

    def read(complain: Complain) -> Iterator[Block]:
        for one in uris:
            place = one.rpartition("/")[2] if len(uris) > 1 else ""
            with open_bytes(one, config) as handle:
                for block in read_blocks(handle, kind, within(place, complain)):
                    if kind in _TABULAR:
                        _check_columns(one, config.columns, block.rows[0])
                    yield Block(block.numbers, block.rows, place)

    return Manifest(
        uri,
        folder_of(uri),
        "row" if kind == "parquet" else "line",
        named_by(config.columns),
        read,
        partial(_digest, uris, config),
    )


def _check_columns(uri: str, columns: Mapping[str, str], row: Mapping[str, object]) -> None:
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
