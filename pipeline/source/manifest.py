"""Manifests: a uri in, checked rows out, in one Arrow schema whatever the format. docs/manifest.md is its reference.

Rows stream through in tables of bounded size; what is kept per row is 8 bytes, to find ids that come twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pyarrow as pa

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.choosing import chosen
from pipeline.source.dialects import Manifest, folder_of_rows, open_manifest
from pipeline.source.formats import Complain, within
from pipeline.source.opening import is_local, local_path
from pipeline.source.repeats import Repeats
from pipeline.source.rows import MANIFEST_SCHEMA, rows_table

__all__ = ["MANIFEST_SCHEMA", "ignore", "manifest_digest", "manifest_roots", "read_manifest", "tables_of"]


def read_manifest(uri: str, config: SourceConfig) -> Iterator[pa.Table]:
    """The manifest's rows as tables of MANIFEST_SCHEMA, at most 20,000 rows each, in the manifest's order.

    Raises ManifestError, one sentence with the line and the next step, for the first row that cannot be used;
    ids that come twice are known at the end, before the iterator ends.
    """
    manifest = open_manifest(uri, config)
    noun = manifest.noun

    def stop(number: int, message: str, place: str = "") -> None:
        where = f"in {place}: " if place else ""
        raise ManifestError(
            f"The manifest {uri}, {noun} {number}: {where}{message}; mend it (`quarry validate` lists every such {noun})."
        )

    ids = Repeats(("id",))
    for _, _, table in tables_of(manifest, config, stop):
        ids.add(table)
        yield table
    if not ids.rows:
        if config.only:
            raise ManifestError(f"No row of the manifest {uri} is chosen by source.only={config.only}; correct it.")
        raise ManifestError(f"The manifest {uri} has no rows; write one per recording (docs/manifest.md).")
    for found in ids.find(tables_of(manifest, config, ignore)):
        first = f"{noun} {found.first_number}{f' in {found.first_place}' if found.first_place else ''}"
        stop(found.number, f"the id {found.values[0]!r} is that of {first} too", found.place)


def ignore(number: int, message: str, place: str = "") -> None:
    """Complaints that were heard before."""


def manifest_digest(uri: str, config: SourceConfig) -> str:
    """sha256 of the manifest's bytes (of a listing: of its names), hex; other rows chosen are another. Raises ManifestError."""
    digest = open_manifest(uri, config).digest()
    if not config.only:
        return digest
    return hashlib.sha256(f"{digest} {json.dumps(config.only, sort_keys=True)}".encode()).hexdigest()


def manifest_roots(uri: str, config: SourceConfig) -> tuple[str, ...]:
    """Where rows may point: `source.roots`, else the manifest's own folder. Absolute paths or scheme://bucket/prefix."""
    return tuple(local_path(root) if is_local(root) else root for root in config.roots or [folder_of_rows(uri, config)])


def tables_of(
    manifest: Manifest, config: SourceConfig, complain: Complain
) -> Iterator[tuple[str, list[int], pa.Table]]:
    """File (of several), line numbers and rows, block by block; those alone that `source.only` chooses."""
    split = config.channels == "split"
    for block in manifest.read(complain):
        table = rows_table(block, manifest.folder, within(block.place, complain), manifest.keys, split)
        numbers = block.numbers
        if config.only:
            mask = chosen(table, config.only)
            table = table.filter(mask)
            numbers = [number for number, wanted in zip(numbers, mask.to_pylist(), strict=True) if wanted]
        yield block.place, numbers, table
