"""The cheap question before a partition is worked on: what is there, and is it what was there last time?

A folder is asked for its listing, a manifest for its size and etag: two or three requests, whatever was transcribed of it before.
Nothing is opened but one growing manifest with `backfill.column`, which is streamed once when it has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow.compute as pc

from pipeline.backfill.partitions import NO_VALUE, Partition, day_of, key_of
from pipeline.config import SourceConfig
from pipeline.source.choosing import values_of
from pipeline.source.formats import format_by_name
from pipeline.source.listing import is_audio, list_files
from pipeline.source.manifest import read_manifest
from pipeline.source.opening import is_local, local_path, reaching
from pipeline.source.sharded import expand
from pipeline.store.remote_folder import etag_of, modified_of

_DIGITS = 16
_OF_FOLDERS = ("kaldi", "audiofolder", "listing")


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a partition now. `digest` None: nothing that can be transcribed yet."""

    digest: str | None
    waiting: int = 0  # files that may still be written
    listed: bool = False  # by the audio that lies there: what is gone from a listing was there once

    @property
    def is_there(self) -> bool:
        """Whether there is anything to be worked on."""
        return self.digest is not None


def survey(uri: str, config: SourceConfig, min_age_s: float) -> Found:
    """What there is at a partition's manifest: a file, several, or a folder; other rows chosen are another.

    Raises ManifestError.
    """
    is_folder = config.format in _OF_FOLDERS or (config.format == "auto" and format_by_name(uri) is None)
    found = _folder(uri, config, min_age_s) if is_folder else _files(uri, config, min_age_s)
    if not found.is_there or not config.only:
        return found
    chosen = f"{found.digest} {json.dumps(config.only, sort_keys=True)}"
    return replace(found, digest=hashlib.sha256(chosen.encode()).hexdigest()[:_DIGITS])


def by_column(uri: str, config: SourceConfig, column: str) -> dict[Partition, Found]:
    """The partitions of one manifest by the value of a column, with what each holds: its ids and uris, in their order.

    Streams the manifest once; holds as much as there are values. Raises ManifestError.
    """
    states: dict[str, hashlib._Hash] = {}
    for table in read_manifest(uri, config):
        values = values_of(table, column)
        for value in pc.unique(values).to_pylist():
            rows = table.filter(pc.equal(values, value))
            state = states.setdefault(value, hashlib.sha256())
            for part in pc.binary_join_element_wise(rows["id"], rows["uri"], "\n").to_pylist():
                state.update(f"{part}\n".encode())
    return {
        Partition(key_of(value) if value else NO_VALUE, uri, day_of(value), value): Found(state.hexdigest()[:_DIGITS])
        for value, state in states.items()
    }


def _files(uri: str, config: SourceConfig, min_age_s: float) -> Found:
    """Of a manifest in one file or several."""
    state, waiting, there = hashlib.sha256(), 0, 0
    with reaching(uri, config) as (file_system, _):
        file_system.invalidate_cache()
        for one in expand(uri):
            try:
                info = file_system.info(local_path(one) if is_local(one) else one)
            except FileNotFoundError:
                continue
            there += 1
            waiting += not _is_settled(info, min_age_s)
            state.update(f"{one} {info.get('size')} {etag_of(info)}\n".encode())
    return Found(None if waiting or not there else state.hexdigest()[:_DIGITS], waiting)


def _is_settled(info: Mapping[str, object], min_age_s: float) -> bool:
    """A manifest is judged by this machine's clock: its `info` brings no other."""
    written_s = modified_of(dict(info))
    return written_s is None or time.time() - written_s >= min_age_s


def _folder(uri: str, config: SourceConfig, min_age_s: float) -> Found:
    """Of a folder: names, sizes and etags of what has settled. One with a manifest inside waits until all of it has."""
    state, waiting, audio, manifests = hashlib.sha256(), 0, 0, 0
    for file in list_files(uri, config):
        if not file.is_settled(min_age_s):
            waiting += 1
            continue
        audio += is_audio(file.name)
        manifests += _is_manifest(file.name)
        state.update(f"{file.name} {file.size_bytes} {file.version}\n".encode(errors="surrogateescape"))
    found = Found(state.hexdigest()[:_DIGITS], waiting, listed=not manifests)
    held_back = waiting if manifests else not audio
    return replace(found, digest=None) if held_back else found


def _is_manifest(name: str) -> bool:
    """Whether a file tells what its folder holds: of a Kaldi directory, or of an audiofolder."""
    base = os.path.basename(name)
    return name == "wav.scp" or (base.startswith("metadata.") and format_by_name(base) in ("csv", "jsonl", "parquet"))
